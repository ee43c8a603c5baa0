"""Make drafters for vLLM from the demo's target and draft head, as folders beside the target.

``smollm2-135m-first-24``: the target's first layers with its own embedding, last norm and output
weights, for vLLM's method "draft_model". ``smollm2-135m-head``: the package's draft head, for its
method "eagle" and the class `laps_env.serving.vllm_head.EagleDraftHead`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from laps_env.live.engine.head import DraftHead
from laps_env.live.engine.head_file import load_head
from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET

LAYERS = 24
FIRST_LAYERS = DEMO_TARGET.with_name(f"smollm2-135m-first-{LAYERS}")
HEAD = DEMO_TARGET.with_name("smollm2-135m-head")

#: The head's parts under the names that they have in vLLM.
NAMES = {
    "token_norm": "token_norm",
    "state_norm": "state_norm",
    "fuse": "fuse",
    "attention_norm": "layer.input_layernorm",
    "project": "layer.self_attn.qkv_proj",
    "out": "layer.self_attn.o_proj",
    "inner_norm": "layer.post_attention_layernorm",
    "up": "layer.mlp.gate_up_proj",
    "down": "layer.mlp.down_proj",
    "last_norm": "last_norm",
}

Model = tuple[dict[str, Any], dict[str, Tensor]]
"""A model's configuration and its weights by name."""


def first_layers(config: dict[str, Any], weights: dict[str, Tensor], count: int) -> Model:
    """A Llama without the layers from ``count`` on."""
    dropped = re.compile(r"model\.layers\.(\d+)\.")
    kept = {
        name: weight
        for name, weight in weights.items()
        if not (layer := dropped.match(name)) or int(layer[1]) < count
    }
    return {**config, "num_hidden_layers": count}, kept


def head_for_vllm(config: dict[str, Any], output: Tensor, head: DraftHead) -> Model:
    """A draft head that says its sizes as a Llama of one layer.

    Args:
        config: Configuration of the target, a Llama.
        output: The target's output weights [vocabulary, width].
        head: Draft head of the target's width.
    """
    own = head.config
    sizes = {
        "architectures": ["EagleDraftHead"],
        "num_hidden_layers": 1,
        "intermediate_size": own.inner,
        "num_attention_heads": own.heads,
        "num_key_value_heads": own.heads,
        "head_dim": own.width // own.heads,
        "rms_norm_eps": head.last_norm.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": own.rope_theta},
        "tie_word_embeddings": False,
        "frequent_tokens": own.frequent_tokens,
    }
    state = head.state_dict()
    weights = {f"model.{NAMES[part]}.weight": state[f"{part}.weight"] for part in NAMES}
    weights |= {"lm_head.weight": output[head.frequent], "frequent": head.frequent}
    return {**config, **sizes}, weights


def write(folder: Path, model: Model) -> None:
    """Write a model as a folder that is there whole or not at all."""
    if folder.exists():
        print(f"{folder} is there already")
        return
    config, weights = model
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        beside.mkdir()
        (beside / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(weights, beside / "model.safetensors", {"format": "pt"})
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"wrote {folder} ({size / 1e6:.0f} MB)")


def main() -> None:
    """Command line."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if not DEMO_TARGET.is_dir():
        sys.exit(f"no {DEMO_TARGET}: run `make demo-models`")
    config = json.loads((DEMO_TARGET / "config.json").read_text())
    weights = load_file(DEMO_TARGET / "model.safetensors")
    write(FIRST_LAYERS, first_layers(config, weights, LAYERS))
    output = weights["model.embed_tokens.weight"]  # the target's are tied
    write(HEAD, head_for_vllm(config, output, load_head(DEMO_DRAFT)))


if __name__ == "__main__":
    main()
