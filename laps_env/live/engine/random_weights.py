"""Models of random weights by the name of their architecture: no checkpoint, no download.

A pass takes as long as one of the real model does, since no time depends on the values of the
weights; what such a model says means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

#: What the name of a model of random weights begins with.
RANDOM = "random:"

#: Folders with the configuration of some known models.
ARCHITECTURES = Path(str(files("laps_env") / "data" / "architectures"))


class NoTokenizer:
    """Stands where a tokenizer would: tokens of random weights are numbers."""

    chat_template = None
    eos_token_id = None

    def get_vocab(self) -> dict[str, int]:
        """No words."""
        return {}

    get_added_vocab = get_vocab

    def __call__(self, text: str) -> dict[str, list[int]]:
        """Refuse a text.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "target: expected a checkpoint with a tokenizer to read prompts, got random weights, "
            "which serve recorded requests only (acceptance='recorded')"
        )

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The numbers themselves."""
        return " ".join(map(str, tokens))


@dataclass(frozen=True)
class RandomWeights:
    """Where a model of random weights is made from.

    Attributes:
        role: Role, "target" or "draft".
        name: Name behind ``random:``: a folder of `ARCHITECTURES`, another folder with config.json,
            or a model type of transformers with its default sizes ("llama" is Llama-2-7B).
    """

    role: str
    name: str

    def config(self) -> Any:
        """The model's configuration.

        Raises:
            ValueError: An unknown name.
        """
        for folder in (ARCHITECTURES / self.name, Path(self.name).expanduser()):
            if (folder / "config.json").is_file():
                return AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if self.name in CONFIG_MAPPING:
            return CONFIG_MAPPING[self.name]()
        known = ", ".join(sorted(path.name for path in ARCHITECTURES.iterdir()))
        raise ValueError(
            f"{self.role}: expected one of {known}, a folder with config.json or a model type of "
            f"transformers behind {RANDOM!r}, got {self.name!r}"
        )

    def tokenizer(self) -> NoTokenizer:
        """No tokenizer."""
        return NoTokenizer()

    def model(self, config: Any, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
        """The model itself, the same each time on a device.

        Raises:
            ValueError: An architecture that is no causal language model.
        """
        with torch.random.fork_rng(), device:
            torch.manual_seed(0)
            try:
                model = AutoModelForCausalLM.from_config(config, dtype=dtype)
            except ValueError as error:
                raise ValueError(
                    f"{self.role}: expected a causal language model, got {self.name!r}"
                ) from error
        model.generation_config.eos_token_id = None  # a random end would mean nothing
        return model.eval()

    def check_vocabulary(self, config: Any, target_config: Any, target_tokenizer: Any) -> None:
        """Raise ``ValueError`` unless this model has as many tokens as the target."""
        own, theirs = (c.get_text_config().vocab_size for c in (config, target_config))
        if own != theirs:
            raise ValueError(
                f"{self.role}: expected the target's vocabulary of {theirs} tokens, got {own} in "
                f"{self.name!r}"
            )
