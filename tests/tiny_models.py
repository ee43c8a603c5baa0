"""Random models of a few thousand weights, with a tokenizer that needs no files."""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers

from laps_env.live.engine.head import DraftHead, HeadConfig
from laps_env.live.engine.loading import Pair

VOCABULARY, LENGTH, STOP = 23, 96, 5


def tiny_model(vocabulary: int = VOCABULARY, length: int = LENGTH, seed: int = 0) -> Any:
    """A random Llama whose layers share key-value heads."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=length,
    )
    return transformers.LlamaForCausalLM(config).eval()


def nearly(model: Any) -> Any:
    """A draft that often, but not always, agrees."""
    draft = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    return draft


def tiny_head(target: Any) -> DraftHead:
    """A random head that can draft most tokens."""
    torch.manual_seed(1)
    width = target.config.hidden_size
    return DraftHead(HeadConfig(width, 4, 48, 10_000.0, VOCABULARY - 3))


class Letters:
    """A tokenizer of letters without a chat template; ids 6 and up."""

    chat_template = None

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [6 + ord(letter) % (VOCABULARY - 6) for letter in text[:20]]}

    def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(ord("a") + t) for t in tokens if not (skip_special_tokens and t == STOP))


def tiny_pair(drafter: str = "model", length: int = 128) -> Pair:
    """A pair whose draft is a ``model``, a ``head`` or ``lookup``."""
    target = tiny_model(length=length)
    drafts = {"model": nearly, "head": tiny_head, "lookup": lambda target: None}
    return Pair(
        target, drafts[drafter](target), Letters(), "tiny-target", drafter, frozenset({STOP})
    )
