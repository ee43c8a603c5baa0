"""Drafters: what proposes the tokens that the target verifies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laps_env.live.slot_model import SlotModel
from laps_env.live.verification import Decoding, Draft, draw


class Drafter(Protocol):
    """Anything that proposes tokens for a batch of sequences."""

    def propose(
        self,
        rows: Sequence[int],
        texts: Sequence[list[int]],
        counts: Sequence[int],
        decoding: Decoding,
        rngs: Sequence[torch.Generator],
    ) -> list[Draft]:
        """Up to ``counts[i]`` tokens to follow ``texts[i]``, the sequence in slot ``rows[i]``.

        Under sampling a drafter draws with the sequence's own generator ``rngs[i]``.
        """

    def forget(self, row: int) -> None:
        """The sequence in this slot has left."""


class PromptLookup:
    """What followed the last tokens when they came up before: no model, and few but cheap hits.

    Source: Saxena, "Prompt Lookup Decoding" (2023), as transformers' ``prompt_lookup_num_tokens``.

    Args:
        longest_match: tokens that are looked up first; then fewer, down to one.
    """

    def __init__(self, longest_match: int = 3) -> None:
        self.longest_match = longest_match

    def propose(
        self,
        rows: Sequence[int],
        texts: Sequence[list[int]],
        counts: Sequence[int],
        decoding: Decoding,
        rngs: Sequence[torch.Generator],
    ) -> list[Draft]:
        """As `Drafter.propose`; nothing where the text does not repeat itself."""
        return [Draft(self._continuation(t)[:n]) for t, n in zip(texts, counts, strict=True)]

    def _continuation(self, text: list[int]) -> list[int]:
        """What followed the latest earlier occurrence of the longest tail that has one."""
        for size in range(min(self.longest_match, len(text) - 1), 0, -1):
            for start in range(len(text) - size - 1, -1, -1):
                if text[start : start + size] == text[-size:]:
                    return text[start + size :]
        return []

    def forget(self, row: int) -> None:
        """Nothing is kept from round to round."""


class DraftModel:
    """A small model with the target's vocabulary, drafting token by token.

    Args:
        model: decoder-only.
        slots, length: as the target's `SlotModel`.
    """

    def __init__(self, model: PreTrainedModel, slots: int, length: int) -> None:
        self.model = SlotModel(model, slots, length)
        self._fed: dict[int, list[int]] = {}

    def propose(
        self,
        rows: Sequence[int],
        texts: Sequence[list[int]],
        counts: Sequence[int],
        decoding: Decoding,
        rngs: Sequence[torch.Generator],
    ) -> list[Draft]:
        """As `Drafter.propose`: one pass of the small model per token and batch."""
        tokens: list[list[int]] = [[] for _ in rows]
        chances: list[list[Tensor]] = [[] for _ in rows]
        for step in range(max(counts)):
            going = [i for i in range(len(rows)) if counts[i] > step]
            for i, logits in zip(going, self._feed(going, rows, texts, tokens), strict=True):
                if decoding.greedy:
                    tokens[i].append(int(logits.argmax()))
                else:
                    chances[i].append(decoding.probabilities(logits))
                    tokens[i].append(draw(chances[i][-1], rngs[i]))
        return [
            Draft(t, torch.stack(c) if c else None) for t, c in zip(tokens, chances, strict=True)
        ]

    def _feed(
        self,
        going: Sequence[int],
        rows: Sequence[int],
        texts: Sequence[list[int]],
        tokens: Sequence[list[int]],
    ) -> list[Tensor]:
        """Feed what the slots do not hold yet; the logits [vocabulary] after each sequence.

        After a fully accepted round that is two tokens, else one; of a new sequence, its prompt.
        """
        whole = [[*texts[i], *tokens[i]] for i in going]
        starts = [self._held(rows[i], text) for i, text in zip(going, whole, strict=True)]
        fed = [text[start:] for text, start in zip(whole, starts, strict=True)]
        logits = self.model.forward([rows[i] for i in going], fed, starts)
        for i, text in zip(going, whole, strict=True):
            self._fed[rows[i]] = text
        return [own[-1] for own in logits]

    def _held(self, row: int, text: list[int]) -> int:
        """Leading tokens of the text that are in the slot; the last one is always fed again."""
        held = 0
        for known, token in zip(self._fed.get(row, []), text[:-1], strict=False):
            if known != token:
                break
            held += 1
        return held

    def forget(self, row: int) -> None:
        """The slot's content is not the next sequence's."""
        self._fed.pop(row, None)
