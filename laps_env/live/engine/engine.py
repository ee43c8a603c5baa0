"""A step-controlled speculative-decoding engine: one call is one round for whoever is chosen.

Between rounds a sequence may wait with its cache in place, be offloaded to the host, or be dropped
and recomputed; with greedy decoding in float32 none of it changes its text.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laps_env.live.engine.acceptance import Acceptance, Greedy, Sampled
from laps_env.live.engine.drafters import Choices, Drafter
from laps_env.live.engine.graphs import first_of_each_shape
from laps_env.live.engine.kv_slots import SlotModel
from laps_env.live.engine.stopping import Stopping
from laps_env.live.engine.verification import Decoding, Draft


@dataclass(eq=False)
class Generation:
    """One sequence on its way.

    Attributes:
        prompt: Token ids, at least one.
        limit: Most output tokens.
        rng: Generator of its draws.
        acceptance: Judge of its drafts.
        stopping: Ends of its output before the limit.
        output: Token ids committed so far, with the stop token at the end where one came.
        slot: Slot of its cache, None where it has none on the device.
        cached: Number of leading tokens of prompt and output that are in the target's cache.
        stored: Caches on the host while it is offloaded, the target's and the drafter's.
        finished: Whether it takes no more rounds.
    """

    prompt: list[int]
    limit: int
    rng: torch.Generator
    acceptance: Acceptance
    stopping: Stopping
    output: list[int] = field(default_factory=list)
    slot: int | None = None
    cached: int = 0
    stored: tuple[Tensor, Any] | None = None
    finished: bool = False

    @property
    def text(self) -> list[int]:
        """Prompt and output."""
        return [*self.prompt, *self.output]


@dataclass(frozen=True)
class RoundResult:
    """What a round did for one sequence.

    Attributes:
        drafted, accepted: Draft tokens; accepted may point past the end of the output.
        committed: Tokens that its output grew by, at least one.
    """

    drafted: int
    accepted: int
    committed: list[int]


@dataclass(frozen=True)
class RoundTimes:
    """Measured device time of one round, in nanoseconds.

    Attributes:
        caches: Time to restore and compute caches.
        draft: Time of all draft steps.
        verify: Time of the target's pass, verification and commitment.
        captures: Number of passes of a shape that had not come up before. On a GPU each is captured
            as a graph, which takes many times as long as the pass: `Engine.warm_up` avoids it.
    """

    caches: int
    draft: int
    verify: int
    captures: int = 0

    @property
    def total(self) -> int:
        """The round's duration."""
        return self.caches + self.draft + self.verify


class Engine:
    """Speculative decoding of many sequences, round by round.

    Args:
        target: Model whose text is generated.
        drafter: Drafter; its vocabulary is the target's.
        slots: Number of sequences with a cache on the device at once, >= 1.
        length: Most tokens of a sequence, prompt and output.
        decoding: Choice of tokens, greedy by default.
        stopping: Ends of outputs before their limit.

    Attributes:
        times: Times of the last round.
    """

    def __init__(
        self,
        target: PreTrainedModel,
        drafter: Drafter,
        *,
        slots: int,
        length: int,
        decoding: Decoding | None = None,
        stopping: Stopping | None = None,
    ) -> None:
        self.target = SlotModel(target, slots, length)
        self.drafter = drafter
        self.decoding = decoding or Decoding()
        self.stopping = stopping or Stopping()
        self.times = RoundTimes(0, 0, 0)
        self._free = list(range(slots))

    def start(
        self,
        prompt: Sequence[int],
        limit: int,
        seed: int = 0,
        *,
        acceptance: Acceptance | None = None,
        stopping: Stopping | None = None,
    ) -> Generation:
        """A new sequence; nothing runs yet.

        Args:
            prompt: Token ids, at least one.
            limit: Most output tokens.
            seed: Seed of its draws.
            acceptance: Judge of its drafts; the target, by the engine's decoding, by default.
            stopping: Ends of its output before the limit; the engine's by default.

        Raises:
            ValueError: An empty prompt, no room for output, or more than a slot holds.
        """
        if not prompt:
            raise ValueError("prompt: expected at least one token, got none")
        if limit < 1 or len(prompt) + limit > self.target.length:
            raise ValueError(
                f"limit: expected 1..{self.target.length - len(prompt)} output tokens after a "
                f"prompt of {len(prompt)} in slots of {self.target.length}, got {limit}"
            )
        rng = torch.Generator().manual_seed(seed)
        if acceptance is None:
            acceptance = Greedy() if self.decoding.greedy else Sampled(self.decoding, rng)
        return Generation(list(prompt), limit, rng, acceptance, stopping or self.stopping)

    def run_round(
        self,
        chosen: Sequence[Generation],
        draft_length: int | Sequence[int],
        thresholds: Sequence[float] | None = None,
    ) -> list[RoundResult]:
        """One round: restore or prefill what needs it, draft, verify in one pass, commit.

        Args:
            chosen: Unfinished sequences, all different, at most as many as slots.
            draft_length: Number of tokens to draft, 0 (no speculation) or more; for all, or each.
            thresholds: Product of its own confidences, 0..1, below which each draft stops
                (`laps_env.sim.confidence`); by default none does.

        Raises:
            ValueError: Thresholds, and a drafter that knows no confidences.
            RuntimeError: No slot is free for one of them (nothing has run then).
            FloatingPointError: The target's logits are not finite (nothing is committed then).
        """
        begin, known = self._now(), self._shapes
        self._give_slots(chosen)
        for g in chosen:
            self._prefill(g)
        ready = self._now()
        if not isinstance(draft_length, Sequence):
            draft_length = [draft_length] * len(chosen)
        drafts = self._draft(chosen, draft_length, thresholds)
        drafted = self._now()
        results = self._verify(chosen, drafts)
        self.times = RoundTimes(
            ready - begin, drafted - ready, self._now() - drafted, self._shapes - known
        )
        return results

    def warm_up(self, batches: Sequence[int], draft_lengths: Sequence[int], longest: int) -> None:
        """Capture all that coming rounds can ask for, so that none of them waits for it.

        Sequences in their slots are left alone. Without graphs the shapes are only noted.

        Args:
            batches: Numbers of sequences in a round.
            draft_lengths: Lengths that the longest draft of a round may have.
            longest: Most tokens of a text, 1 to the slots' length.
        """
        self.target.warm_up_prefill(longest)
        tokens = [n + 1 for n in self.drafter.lengths(draft_lengths)]
        self.target.warm_up(batches, tokens, first_of_each_shape(longest))
        self.drafter.warm_up(batches, longest + max(draft_lengths))

    @property
    def _shapes(self) -> int:
        """Number of shapes of passes that have come up."""
        return self.target.captures + self.drafter.captures

    def _now(self) -> int:
        """Nanoseconds, when the device has done all that was asked of it."""
        if self.target.model.device.type == "cuda":
            torch.cuda.synchronize(self.target.model.device)
        return time.perf_counter_ns()

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
                cache, saved = g.stored
                self.target.write(g.slot, cache)
                self.drafter.restore(g.slot, saved)
                g.stored = None

    def _prefill(self, g: Generation) -> None:
        """Feed all but the last token of the text; the round itself feeds the last one."""
        assert g.slot is not None  # it was just given one
        fresh = g.text[g.cached : -1]
        if fresh:
            states = self.target.prefill(g.slot, fresh, g.cached)
            self.drafter.watch(g.slot, g.cached, states)
            g.cached += len(fresh)

    def _draft(
        self,
        chosen: Sequence[Generation],
        lengths: Sequence[int],
        thresholds: Sequence[float] | None,
    ) -> list[Draft]:
        texts = [g.text for g in chosen]
        # a draft may run past the output's end, not past the slot's, while another one goes on
        room = self.target.length - max(len(text) for text in texts)
        counts = [min(length, room) for length in lengths]
        if max(counts) == 0:
            return [Draft([]) for _ in chosen]
        choices = Choices(self.decoding, [g.rng for g in chosen], counts, thresholds)
        drafts = self.drafter.propose(_slots(chosen), texts, choices)
        return [
            g.acceptance.fit(len(g.output), draft, count)
            for g, draft, count in zip(chosen, drafts, counts, strict=True)
        ]

    def _verify(self, chosen: Sequence[Generation], drafts: Sequence[Draft]) -> list[RoundResult]:
        fed = [[g.text[-1], *draft.tokens] for g, draft in zip(chosen, drafts, strict=True)]
        out = self.target.forward(_slots(chosen), fed, [g.cached for g in chosen])
        choices = out.choices.tolist()
        if any(-1 in own for own in choices):
            raise FloatingPointError("target: expected finite logits, got NaN or infinity")
        outcomes = [
            g.acceptance.accept(len(g.output), draft, likeliest, logits)
            for g, draft, likeliest, logits in zip(chosen, drafts, choices, out.logits, strict=True)
        ]
        return [
            self._commit(g, draft, accepted, token, hidden)
            for g, draft, (accepted, token), hidden in zip(
                chosen, drafts, outcomes, out.hidden, strict=True
            )
        ]

    def _commit(
        self, g: Generation, draft: Draft, accepted: int, token: int, hidden: Tensor
    ) -> RoundResult:
        """The accepted tokens and the target's own, up to a stop or the limit."""
        assert g.slot is not None  # it has just been served
        committed = [*draft.tokens[:accepted], token][: g.limit - len(g.output)]
        committed, stopped = g.stopping.cut(g.output, committed)
        self.drafter.watch(g.slot, g.cached, hidden[: len(committed)])
        g.output += committed
        g.cached += len(committed)  # rejected entries lie past it: forgotten
        g.finished = stopped or len(g.output) == g.limit
        if g.finished:
            self.drop(g)
        return RoundResult(len(draft.tokens), accepted, committed)

    def offload(self, g: Generation) -> None:
        """Move a sequence's caches to the host; its next round brings them back into any slot."""
        if g.slot is not None:
            g.stored = self.target.read(g.slot, g.cached), self.drafter.save(g.slot)
            self._leave_slot(g)

    def drop(self, g: Generation) -> None:
        """Forget a sequence's caches; its next round recomputes them from prompt and output."""
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
