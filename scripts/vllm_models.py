"""Make drafters for vLLM from the demo's target and draft head, as folders beside the target.

``smollm2-135m-first-24``: the target's first layers with its own embedding, last norm and output
weights, for vLLM's method "draft_model". ``smollm2-135m-mtp``: the package's draft head for vLLM's
method "mtp". No class of vLLM is named after it, but that of MiMo's heads computes the same: the
norms of token and state, a projection of both, one layer, a last norm. vLLM lends it the target's
embedding and output weights; it drafts from the whole vocabulary, not from frequent tokens alone.
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

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from laps_env.live.engine.head import DraftHead
from laps_env.live.engine.head_file import load_head
from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET

LAYERS = 24
FIRST_LAYERS = DEMO_TARGET.with_name(f"smollm2-135m-first-{LAYERS}")
HEAD = DEMO_TARGET.with_name("smollm2-135m-mtp")

#: Our head's parts under the names that MiMo's checkpoints give them.
NAMES = {
    "token_norm": "token_layernorm",
    "state_norm": "hidden_layernorm",
    "attention_norm": "input_layernorm",
    "out": "self_attn.o_proj",
    "inner_norm": "post_attention_layernorm",
    "down": "mlp.down_proj",
    "last_norm": "final_layernorm",
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


def mimo_head(target: dict[str, Any], head: DraftHead) -> Model:
    """A draft head as the only layer of MiMo's kind, whose attention is Qwen2's.

    Args:
        target: Configuration of the target, for its vocabulary and longest text.
        head: Draft head of the target's width.
    """
    ours = head.config
    config = {
        "architectures": ["MiMoForCausalLM"],
        "model_type": "qwen2",
        "num_nextn_predict_layers": 1,
        "num_hidden_layers": 1,
        "hidden_size": ours.width,
        "intermediate_size": ours.inner,
        "num_attention_heads": ours.heads,
        "num_key_value_heads": ours.heads,
        "rms_norm_eps": head.last_norm.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": ours.rope_theta},
        "vocab_size": target["vocab_size"],
        "max_position_embeddings": target["max_position_embeddings"],
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    state = head.state_dict()
    weights = {f"{theirs}.weight": state[f"{own}.weight"] for own, theirs in NAMES.items()}
    token, hidden = state["fuse.weight"].chunk(2, 1)
    weights["input_proj.weight"] = torch.cat([hidden, token], 1)
    for part, weight in zip("qkv", state["project.weight"].chunk(3), strict=True):
        weights[f"self_attn.{part}_proj.weight"] = weight.contiguous()
        weights[f"self_attn.{part}_proj.bias"] = torch.zeros(len(weight))
    gate, up = state["up.weight"].chunk(2)
    weights["mlp.gate_proj.weight"], weights["mlp.up_proj.weight"] = gate.clone(), up.clone()
    return config, {f"model.mtp_layers.0.{name}": weight for name, weight in weights.items()}


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
    write(HEAD, mimo_head(config, load_head(DEMO_DRAFT)))


if __name__ == "__main__":
    main()
