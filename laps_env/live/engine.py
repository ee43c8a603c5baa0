"""A step-controlled speculative-decoding engine: one call is one round for whoever is chosen.

Between rounds a sequence may wait with its cache in place, be offloaded to the host, or be dropped
and recomputed; with greedy decoding in float32 none of it changes its text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from laps_env.live.drafters import Drafter
from laps_env.live.slot_model import SlotModel, StoredLayer
from laps_env.live.verification import Decoding, Draft, verify

#: Most tokens of a sequence that one pass of a prefill feeds.
PREFILL_CHUNK = 512


@dataclass(eq=False)
class Generation:
    """One sequence on its way.

    Attributes:
        prompt: token ids, at least one.
        limit: most output tokens.
        rng: the generator of its draws.
        output: token ids committed so far, with the stop token at the end where one came.
        slot: of its cache, None where it has none on the device.
        cached: leading tokens of prompt and output that are in the target's cache.
        stored: its cache on the host while it is offloaded.
        finished: no more rounds.
    """

    prompt: list[int]
    limit: int
    rng: torch.Generator
    output: list[int] = field(default_factory=list)
    slot: int | None = None
    cached: int = 0
    stored: list[StoredLayer] | None = None
    finished: bool = False

    @property
    def text(self) -> list[int]:
        """Prompt and output."""
        return [*self.prompt, *self.output]


@dataclass(frozen=True)
class RoundResult:
    """What a round did for one sequence.

    Attributes:
        drafted, accepted: draft tokens; accepted may point past the end of the output.
        committed: tokens that its output grew by, at least one.
    """

    drafted: int
    accepted: int
    committed: list[int]


class Engine:
    """Speculative decoding of many sequences, round by round.

    Args:
        target: the model whose text is generated.
        drafter: proposes tokens; its vocabulary is the target's.
        slots: sequences with a cache on the device at once, >= 1.
        length: most tokens of a sequence, prompt and output.
        decoding: greedy by default.
        stop_tokens: token ids that end an output.
    """

    def __init__(
        self,
        target: PreTrainedModel,
        drafter: Drafter,
        *,
        slots: int,
        length: int,
        decoding: Decoding | None = None,
        stop_tokens: Collection[int] = (),
    ) -> None:
        self.target = SlotModel(target, slots, length)
        self.drafter = drafter
        self.decoding = decoding or Decoding()
        self.stop_tokens = frozenset(stop_tokens)
        self._free = list(range(slots))

    def start(self, prompt: Sequence[int], limit: int, seed: int = 0) -> Generation:
        """A new sequence; nothing runs yet.

        Raises:
            ValueError: an empty prompt, no room for output, or more than a slot holds.
        """
        if not prompt:
            raise ValueError("prompt: expected at least one token, got none")
        if limit < 1 or len(prompt) + limit > self.target.length:
            raise ValueError(
                f"limit: expected 1..{self.target.length - len(prompt)} output tokens after a "
                f"prompt of {len(prompt)} in slots of {self.target.length}, got {limit}"
            )
        return Generation(list(prompt), limit, torch.Generator().manual_seed(seed))

    def run_round(self, chosen: Sequence[Generation], draft_length: int) -> list[RoundResult]:
        """One round: restore or prefill what needs it, draft, verify in one pass, commit.

        Args:
            chosen: unfinished sequences, all different, at most as many as slots.
            draft_length: tokens to draft for each, 0 (no speculation) or more.

        Raises:
            RuntimeError: no slot is free for one of them (nothing has run then).
            FloatingPointError: the target's logits are not finite.
        """
        self._give_slots(chosen)
        self._prefill(chosen)
        texts = [g.text for g in chosen]
        drafts = self._draft(chosen, texts, draft_length)
        fed = [[t[-1], *draft.tokens] for t, draft in zip(texts, drafts, strict=True)]
        logits = self.target.forward(_slots(chosen), fed, [g.cached for g in chosen])
        if not all(bool(own.isfinite().all()) for own in logits):
            raise FloatingPointError("target: expected finite logits, got NaN or infinity")
        return [
            self._commit(g, draft, *verify(draft, own, self.decoding, g.rng))
            for g, draft, own in zip(chosen, drafts, logits, strict=True)
        ]

    def _give_slots(self, chosen: Sequence[Generation]) -> None:
        homeless = [g for g in chosen if g.slot is None]
        if len(homeless) > len(self._free):
            raise RuntimeError(
                f"slots: expected {len(homeless)} free, got {len(self._free)}; "
                "offload or drop a waiting sequence first"
            )
        for g in homeless:
            g.slot = self._free.pop(0)
            if g.stored is not None:
                self.target.write(g.slot, g.stored)
                g.stored = None

    def _prefill(self, chosen: Sequence[Generation]) -> None:
        """Feed all but the last token of each text; the round itself feeds the last one."""
        while behind := [g for g in chosen if g.cached < len(g.text) - 1]:
            chunks = [g.text[g.cached : -1][:PREFILL_CHUNK] for g in behind]
            self.target.forward(_slots(behind), chunks, [g.cached for g in behind])
            for g, chunk in zip(behind, chunks, strict=True):
                g.cached += len(chunk)

    def _draft(
        self, chosen: Sequence[Generation], texts: Sequence[list[int]], draft_length: int
    ) -> list[Draft]:
        if draft_length == 0:
            return [Draft([]) for _ in chosen]
        # a draft may run past the output's end, not past the slot's
        counts = [min(draft_length, self.target.length - len(text)) for text in texts]
        rngs = [g.rng for g in chosen]
        return self.drafter.propose(_slots(chosen), texts, counts, self.decoding, rngs)

    def _commit(self, g: Generation, draft: Draft, accepted: int, token: int) -> RoundResult:
        """The accepted tokens and the target's own, up to a stop token or the limit."""
        committed = [*draft.tokens[:accepted], token][: g.limit - len(g.output)]
        for place, each in enumerate(committed):
            if each in self.stop_tokens:
                committed = committed[: place + 1]
                break
        g.output += committed
        g.cached += len(committed)  # rejected entries lie past it: forgotten
        g.finished = len(g.output) == g.limit or g.output[-1] in self.stop_tokens
        if g.finished:
            self.drop(g)
        return RoundResult(len(draft.tokens), accepted, committed)

    def offload(self, g: Generation) -> None:
        """Move a sequence's cache to the host; its next round brings it back into any slot."""
        if g.slot is not None:
            g.stored = self.target.read(g.slot, g.cached)
            self._leave_slot(g)

    def drop(self, g: Generation) -> None:
        """Forget a sequence's cache; its next round recomputes it from prompt and output."""
        g.stored = None
        g.cached = 0
        self._leave_slot(g)

    def _leave_slot(self, g: Generation) -> None:
        if g.slot is not None:
            self.drafter.forget(g.slot)
            self._free.append(g.slot)
            g.slot = None


def _slots(generations: Sequence[Generation]) -> list[int]:
    """The slots of sequences that have one."""
    return [g.slot for g in generations if g.slot is not None]
