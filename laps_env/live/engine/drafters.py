"""Drafters: what proposes the tokens that the target verifies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laps_env.live.engine.graphs import first_of_each_shape
from laps_env.live.engine.kv_slots import PREFILL_CHUNK, SlotModel
from laps_env.live.engine.passes import Pass
from laps_env.live.engine.verification import Decoding, Draft, draw
from laps_env.sim.confidence import CERTAIN

#: A draft's first step feeds up to so many tokens of each sequence; what lacks more is prefilled.
FIRST_STEP = 16

Slots = Sequence[int]
Texts = Sequence[list[int]]


class Choices:
    """How a batch's tokens are drafted, those drafted so far, and the distributions they came from.

    Args:
        decoding: Choice of tokens.
        rngs: Generator of each sequence; under sampling its tokens are drawn with it alone.
        lengths: Most tokens of each draft.
        thresholds: Products of its own confidences below which each draft stops, 0..1
            (`laps_env.sim.confidence`); by default none does.

    Attributes:
        lengths: The same, less where a draft has stopped.
    """

    def __init__(
        self,
        decoding: Decoding,
        rngs: Sequence[torch.Generator],
        lengths: Sequence[int],
        thresholds: Sequence[float] | None = None,
    ) -> None:
        self.decoding = decoding
        self.rngs = rngs
        self.lengths = list(lengths)
        self.thresholds = [0.0] * len(rngs) if thresholds is None else thresholds
        self.tokens: list[list[int]] = []
        self.chances: list[Tensor] = []
        self._products = [1.0] * len(rngs)

    def of(self, members: Sequence[int]) -> Choices:
        """The same for some sequences of the batch, nothing drafted yet."""
        return Choices(
            self.decoding,
            [self.rngs[i] for i in members],
            [self.lengths[i] for i in members],
            [self.thresholds[i] for i in members],
        )

    @property
    def complete(self) -> bool:
        """Whether no draft goes on."""
        return len(self.tokens) >= max(self.lengths)

    @property
    def by_confidence(self) -> bool:
        """Whether a draft stops where it is unsure."""
        return any(self.thresholds)

    def add(self, likeliest: Sequence[int], logits: Callable[[], Tensor]) -> list[int]:
        """The next token of each sequence; of a draft that has ended it will not count.

        Args:
            likeliest: Likeliest tokens [batch].
            logits: Function that gives their logits [batch, vocabulary], which sampling and
                confidences ask for.
        """
        chosen = list(likeliest)
        if not self.decoding.greedy:
            chances = self.decoding.probabilities(logits())
            for i, (own, rng) in enumerate(zip(chances, self.rngs, strict=True)):
                # how many draws a sequence takes must not depend on the others
                if len(self.tokens) < self.lengths[i]:
                    chosen[i] = draw(own, rng)
            self.chances.append(chances)
        self.tokens.append(chosen)
        if self.by_confidence:
            self._stop_unsure(confidence_of(logits()).tolist())
        return chosen

    def _stop_unsure(self, confidences: Sequence[int]) -> None:
        """End the drafts whose product falls below their threshold, behind the latest token."""
        for i, confidence in enumerate(confidences):
            self._products[i] *= confidence / CERTAIN
            if self._products[i] < self.thresholds[i]:
                self.lengths[i] = min(self.lengths[i], len(self.tokens))

    def drafts(self) -> list[Draft]:
        """One draft per sequence."""
        drafted = zip(zip(*self.tokens, strict=True), self.lengths, strict=True)
        tokens = [list(own[:length]) for own, length in drafted]
        if self.decoding.greedy:
            return [Draft(own) for own in tokens]
        return [
            Draft(own, chances[: len(own)])
            for own, chances in zip(tokens, torch.stack(self.chances, 1), strict=True)
        ]


class Judged(NamedTuple):
    """What the target makes of the drafts from each output position of a text.

    Attributes:
        accepted: Draft tokens that a round would accept [positions].
        confidence: Probability that the drafter gives the first of them [positions], in 255ths; 0
            where nothing can be drafted, None of a drafter that knows no probabilities.
    """

    accepted: list[int]
    confidence: list[int] | None


def confidence_of(logits: Tensor) -> Tensor:
    """Probability of the likeliest token by logits [..., tokens], in 255ths, on the host."""
    return (255 * logits.float().softmax(-1).amax(-1)).round().int().cpu()


class Drafter:
    """What proposes tokens for a batch of sequences, each known by its slot.

    One that keeps nothing from round to round needs `propose` alone.
    """

    def propose(self, slots: Slots, texts: Texts, chosen: Choices) -> list[Draft]:
        """Up to ``chosen.lengths[i]`` tokens to follow ``texts[i]``, the sequence in ``slots[i]``.

        Raises:
            ValueError: Drafts stop by their confidences, of which the drafter knows none.
        """
        raise NotImplementedError

    @property
    def captures(self) -> int:
        """Number of shapes of passes that have come up (`SlotModel.captures`)."""
        return 0

    def lengths(self, asked: Sequence[int]) -> Sequence[int]:
        """Lengths of drafts that may come of those that are asked for: all up to the longest."""
        return range(max(asked) + 1)

    def warm_up(self, batches: Sequence[int], longest: int) -> None:
        """Have all passes come up that drafting needs.

        Args:
            batches: Numbers of sequences in a round.
            longest: Most tokens of a text with its draft.
        """

    def watch(self, slot: int, start: int, hidden: Tensor) -> None:
        """The target has fed tokens from position ``start`` on; its states [tokens, width]."""

    def save(self, slot: int) -> Any:
        """What the drafter holds of a sequence, on the host, for `restore`."""

    def restore(self, slot: int, saved: Any) -> None:
        """Take up a saved sequence in any slot."""

    def forget(self, slot: int) -> None:
        """The sequence in this slot has left."""


class PromptLookup(Drafter):
    """What followed the last tokens when they came up before: no model, and few but cheap hits.

    Source: Saxena, "Prompt Lookup Decoding" (2023), as transformers' ``prompt_lookup_num_tokens``.

    Args:
        longest_match: Most tokens that are looked up; then fewer, down to one.
    """

    def __init__(self, longest_match: int = 3) -> None:
        self.longest_match = longest_match

    def propose(self, slots: Slots, texts: Texts, chosen: Choices) -> list[Draft]:
        """Draft what followed the latest match; nothing where the text does not repeat itself."""
        if chosen.by_confidence:
            raise ValueError("thresholds: expected a drafter with confidences, got prompt lookup")
        return [
            Draft(self.continuation(text)[:most])
            for text, most in zip(texts, chosen.lengths, strict=True)
        ]

    def continuation(self, text: list[int]) -> list[int]:
        """What followed the latest earlier occurrence of the longest tail that has one."""
        longest, after = 0, len(text)
        for end in range(len(text) - 2, -1, -1):
            if text[end] != text[-1]:
                continue
            size = 1
            while size < min(self.longest_match, end + 1) and text[end - size] == text[-1 - size]:
                size += 1
            if size > longest:
                longest, after = size, end + 1
        return text[after:]


class DraftModel(Drafter):
    """A small model with the target's vocabulary, drafting token by token.

    Args:
        model: Decoder-only draft model.
        slots, length: Sizes of the target's `SlotModel`.
    """

    def __init__(self, model: PreTrainedModel, slots: int, length: int) -> None:
        self.model = SlotModel(model, slots, length)
        self._held: dict[int, int] = {}

    def watch(self, slot: int, start: int, hidden: Tensor) -> None:
        """Forget what was drafted past the tokens that the target has committed."""
        self._held[slot] = min(self._held.get(slot, 0), start + len(hidden))

    def propose(self, slots: Slots, texts: Texts, chosen: Choices) -> list[Draft]:
        """Draft with one pass of the small model per token and batch, until no draft goes on.

        The first feeds whatever tokens of the texts are not in the slots: those of a short new
        prompt, two after a draft that was accepted whole, else one.
        """
        starts = [self._catch_up(slot, text) for slot, text in zip(slots, texts, strict=True)]
        fed = [text[start:] for text, start in zip(texts, starts, strict=True)]
        ends = [len(text) for text in texts]
        while not chosen.complete:
            tokens = self._next(self.model.forward(slots, fed, starts), fed, chosen)
            step = len(chosen.tokens) - 1
            fed, starts = [[token] for token in tokens], [end + step for end in ends]
        self._held.update(zip(slots, starts, strict=True))
        return chosen.drafts()

    @staticmethod
    def _next(out: Pass, fed: Sequence[Sequence[int]], chosen: Choices) -> list[int]:
        """The token that follows the last one that each sequence has fed."""
        last = [len(own) - 1 for own in fed]
        # a model whose logits are not finite may draft anything
        likeliest = [max(own[k], 0) for own, k in zip(out.choices.tolist(), last, strict=True)]
        return chosen.add(likeliest, lambda: out.logits[torch.arange(len(last)), last])

    def _catch_up(self, slot: int, text: list[int]) -> int:
        """Feed what a first step cannot; the number of tokens that the slot then holds."""
        # after a round that failed it may hold a draft that was never judged
        held = min(self._held.get(slot, 0), len(text) - 1)
        if len(text) - held <= FIRST_STEP:
            return held
        self.model.prefill(slot, text[held:-1], held)
        return len(text) - 1

    @property
    def captures(self) -> int:
        """Number of shapes of the small model's passes."""
        return self.model.captures

    def lengths(self, asked: Sequence[int]) -> Sequence[int]:
        """A draft that does not stop is as long as it was asked for."""
        return asked

    def warm_up(self, batches: Sequence[int], longest: int) -> None:
        """Steps of a batch, the first of which catches up; and prefills, from anywhere."""
        starts = first_of_each_shape(longest)
        self.model.warm_up(batches, range(1, FIRST_STEP + 1), starts)
        chunks = range(1, min(PREFILL_CHUNK, longest) + 1)
        self.model.warm_up([1], chunks, starts, last_logits=True)

    def save(self, slot: int) -> Any:
        """The number of tokens that the slot holds, and its cache."""
        held = self._held.get(slot, 0)
        return held, self.model.read(slot, held) if held else None

    def restore(self, slot: int, saved: Any) -> None:
        """Put back what `save` returned."""
        self._held[slot], cache = saved
        if cache is not None:
            self.model.write(slot, cache)

    def forget(self, slot: int) -> None:
        """The slot's content is not the next sequence's."""
        self._held.pop(slot, None)
