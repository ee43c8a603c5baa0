"""The drafters for vLLM: whole models by the names that vLLM reads, checked without it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import LENGTH, VOCABULARY, tiny_head, tiny_model  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parent.parent


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("vllm_models", ROOT / "scripts/vllm_models.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


script = load_script()


def as_llama(config: dict[str, Any], weights: dict[str, Any]) -> Any:
    """The head's layer and last norm in transformers' Llama, which has no stacked weights."""
    layer = {
        name.removeprefix("model.layer."): weight
        for name, weight in weights.items()
        if name.startswith("model.layer.")
    }
    stacked = {"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")}
    for name, parts in stacked.items():
        pieces = layer.pop(f"{name}.weight").chunk(len(parts))
        for part, piece in zip(parts, pieces, strict=True):
            layer[f"{name.split('.')[0]}.{part}_proj.weight"] = piece
    llama = transformers.LlamaModel(transformers.LlamaConfig(**config)).eval()
    llama.layers[0].load_state_dict(layer)
    llama.norm.load_state_dict({"weight": weights["model.last_norm.weight"]})
    return llama


@torch.inference_mode()
def test_a_head_written_for_vllm_computes_what_it_did() -> None:
    target = tiny_model()
    head = tiny_head(target)
    for name, weight in head.named_parameters():
        if "norm" in name:
            weight.uniform_(0.5, 2)
    head.frequent.copy_(torch.randperm(VOCABULARY)[: VOCABULARY - 3])
    output = target.lm_head.weight
    config, weights = script.head_for_vllm(target.config.to_dict(), output, head)
    embedded, states = torch.randn(2, 2, 7, output.shape[1])
    mask, positions = torch.ones(7, 7, dtype=torch.bool).tril(), torch.arange(7).expand(2, 7)
    expected = head(embedded, states, positions, mask, lambda keys, values: (keys, values))

    def normed(x: Any, name: str) -> Any:
        weight = weights[f"model.{name}.weight"]
        return torch.nn.functional.rms_norm(x, weight.shape, weight, config["rms_norm_eps"])

    both = torch.cat([normed(embedded, "token_norm"), normed(states, "state_norm")], -1)
    x = both @ weights["model.fuse.weight"].T
    llama = as_llama(config, weights)
    torch.testing.assert_close(llama(inputs_embeds=x).last_hidden_state, expected)
    assert torch.equal(weights["lm_head.weight"], output[weights["frequent"]])
    assert config["frequent_tokens"] == VOCABULARY - 3
    assert config["max_position_embeddings"] == LENGTH


def test_the_first_layers_are_counted_not_spelled() -> None:
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    names += [f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1, 2, 10, 11)]
    config, kept = script.first_layers(
        {"num_hidden_layers": 12, "vocab_size": 5}, dict.fromkeys(names, torch.zeros(1)), 2
    )
    assert config == {"num_hidden_layers": 2, "vocab_size": 5}
    assert list(kept) == names[:4]
