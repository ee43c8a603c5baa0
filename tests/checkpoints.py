"""Tiny random models and draft heads in folders, and damage to their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer  # noqa: E402
from tokenizers.models import WordLevel  # noqa: E402
from tokenizers.pre_tokenizers import Whitespace  # noqa: E402

from laps_env.live.engine.head import DraftHead, HeadConfig  # noqa: E402

WORDS = [f"w{i}" for i in range(23)]
WIDTH, LENGTH = 32, 96


def save_model(folder: Path, words: list[str] = WORDS, *, tokens: int = 0, **options: Any) -> Path:
    """A random tiny Llama with a tokenizer of whole words."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{
            "vocab_size": tokens or len(words),
            "hidden_size": WIDTH,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": LENGTH,
            "eos_token_id": [1, 2],
            **options,
        }
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    tokenizer.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=words[0], eos_token=words[1]
    ).save_pretrained(folder)
    return folder


def random_head(**sizes: int) -> DraftHead:
    torch.manual_seed(1)
    config = {"width": WIDTH, "heads": 4, "inner": 48, "frequent_tokens": 20, **sizes}
    return DraftHead(HeadConfig(rope_theta=10_000.0, **config))


def cut(name: str, size: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return spoil
