"""Recording: prompts in, acceptance of every output position out.

A greedy text does not depend on how it is served, so it is generated once, in rounds of a fixed
draft length (whose times are kept), and goes on past its end for as many tokens as a draft may
overshoot it. From the target's states along the text the drafter is then asked what it would have
proposed at every position.

A sampled text is one of many. Of it the probability is recorded that the draft's token is accepted
at each position (`laps_env.live.measure.sampling`), and one draw of it that agrees with the rounds.

Of its confidence the probability of the first token that it would propose is kept. A draft's later
tokens are thereby taken to be as sure as if the true text were before them: a head's probabilities
tell accepted from refused nearly as well at depth 6 (area under the curve .79) as at depth 1 (.83).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laps_env.live.engine.drafters import (
    Choices,
    Drafter,
    DraftModel,
    Judged,
    PromptLookup,
    Slots,
    Texts,
    confidence_of,
)
from laps_env.live.engine.engine import Generation, RoundResult
from laps_env.live.engine.head_drafter import HeadDrafter
from laps_env.live.engine.loading import Pair
from laps_env.live.engine.stopping import Stopping
from laps_env.live.engine.verification import Decoding, Draft, longest_match
from laps_env.live.measure.sampling import acceptance_of, drawn_lengths, lookup_acceptance
from laps_env.live.prompts import Question, encode
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH
from laps_env.traces import AcceptanceTrace, TraceInfo


@dataclass(frozen=True)
class Recorded:
    """One recorded request, plain numbers.

    Attributes:
        group, category: Number and category of its question.
        prompt_tokens, output_tokens: Lengths in tokens.
        accepted_length: Accepted lengths [output_tokens] of the drafter that served.
        confidence: Probability that it gives its token for each position, in 255ths
            [output_tokens]; None of prompt lookup.
        lookup_accepted_length, lookup_max_draft: Accepted lengths of prompt lookup, and how many
            tokens it proposes.
        schedule, committed, round_ns: Tokens drafted, tokens committed and duration of each round
            it was served in.
        corrected: Positions at which a round accepted other than the pass over the text says
            (near-ties of the target or the draft); the round is believed.
        acceptance, lookup_acceptance: Probability that the token of the drafter that served, and of
            prompt lookup, is accepted under sampling [output_tokens]; None of a greedy text.
    """

    group: int
    category: str
    prompt_tokens: int
    output_tokens: int
    accepted_length: list[int]
    confidence: list[int] | None
    lookup_accepted_length: list[int]
    lookup_max_draft: list[int]
    schedule: list[int]
    committed: list[int]
    round_ns: list[int]
    corrected: int
    acceptance: list[float] | None = None
    lookup_acceptance: list[float] | None = None


@dataclass
class _Conversation:
    """A question on its way: what was said so far, and the answer that is being generated."""

    group: int
    question: Question
    said: list[str]
    generation: Generation
    rounds: list[tuple[int, RoundResult, int]] = field(default_factory=list)
    recorded: list[Recorded] = field(default_factory=list)


class _States(Drafter):
    """A drafter that also keeps the target's states of every sequence it drafts for."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._parts: dict[int, list[Tensor]] = {}

    def propose(self, slots: Slots, texts: Texts, chosen: Choices) -> list[Draft]:
        """What the drafter proposes."""
        return self._drafter.propose(slots, texts, chosen)

    def of(self, slot: int) -> Tensor:
        """[tokens, width] of the sequence in this slot, all but its last token."""
        return torch.cat(self._parts[slot])

    def watch(self, slot: int, start: int, hidden: Tensor) -> None:
        """Keep them, and pass them on."""
        self._parts.setdefault(slot, []).append(hidden)
        self._drafter.watch(slot, start, hidden)

    def forget(self, slot: int) -> None:
        """The sequence has left."""
        self._parts.pop(slot, None)
        self._drafter.forget(slot)


class Recorder:
    """Records requests with one pair of models.

    Args:
        pair: Pair of models in float32, so that the texts are the target's own.
        limit: Most output tokens.
        longest: Most prompt tokens; a conversation ends before a turn that is longer.
        batch: Number of requests served together.
        draft_length: Draft length of the rounds, 1..16.
        decoding: Choice of tokens, greedy by default.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        limit: int,
        longest: int,
        batch: int = 8,
        draft_length: int = 5,
        decoding: Decoding | None = None,
    ) -> None:
        self.pair = pair
        self.limit = limit
        self.longest = longest
        self.batch = batch
        self.draft_length = draft_length
        self.decoding = decoding or Decoding()
        # the text goes on past its end, which the engine must not notice
        length = longest + limit + 3 * MAX_DRAFT_LENGTH + 3
        self._serving = pair.engine(
            slots=batch, length=length, decoding=self.decoding, stopping=Stopping()
        )
        reading = pair.engine(slots=1, length=length)
        self._reading = reading.drafter
        self._target = None if self.decoding.greedy else reading.target
        self._states = _States(self._serving.drafter)
        self._serving.drafter = self._states

    def record(self, questions: Mapping[int, Question]) -> Iterator[tuple[int, list[Recorded]]]:
        """Serve questions by number, in order; each comes back when its last turn is done."""
        waiting = iter(questions.items())
        running: list[_Conversation] = []
        while True:
            for group, question in islice(waiting, self.batch - len(running)):
                said = [question.turns[0]]
                running.append(_Conversation(group, question, said, self._start(group, said)))
            if not running:
                return
            starts = [len(c.generation.output) for c in running]
            results = self._serving.run_round([c.generation for c in running], self.draft_length)
            took = self._serving.times.total
            for c, start, result in zip(running, starts, results, strict=True):
                c.rounds.append((start, result, took))
            for c in [c for c in running if self._is_complete(c.generation)]:
                c.recorded.append(self._measure(c))
                self._serving.drop(c.generation)
                if not self._next_turn(c):
                    running.remove(c)
                    yield c.group, c.recorded

    def _start(self, group: int, said: list[str]) -> Generation:
        prompt = encode(self.pair.tokenizer, said)
        if len(prompt) > self.longest:
            raise ValueError(
                f"prompt: expected at most {self.longest} tokens, got {len(prompt)}: {said[0][:60]}"
            )
        # never reached: a finished text would lose its slot, and with it its states
        return self._serving.start(
            prompt, self.limit + 2 * MAX_DRAFT_LENGTH + 2, seed=_seed(group, said)
        )

    def _next_turn(self, c: _Conversation) -> bool:
        """Put the user's next turn, where there is one that fits."""
        turns = c.question.turns
        answer = c.generation.output[: self._end(c.generation.output)]
        said = [*c.said, self.pair.tokenizer.decode(answer, skip_special_tokens=True)]
        turn = len(said) // 2
        if turn == len(turns):
            return False
        said.append(turns[turn])
        if len(encode(self.pair.tokenizer, said)) > self.longest:
            return False
        c.said, c.generation, c.rounds = said, self._start(c.group, said), []
        return True

    def _end(self, output: list[int]) -> int:
        """Output tokens up to the limit or the first stop token."""
        stops = self.pair.stop_tokens
        ends = (i + 1 for i, token in enumerate(output[: self.limit]) if token in stops)
        return next(ends, self.limit)

    def _is_complete(self, generation: Generation) -> bool:
        return len(generation.output) - self._end(generation.output) > MAX_DRAFT_LENGTH

    def _measure(self, c: _Conversation) -> Recorded:
        prompt, output = c.generation.prompt, c.generation.output
        end = self._end(output)
        text = [*prompt, *output[: end + MAX_DRAFT_LENGTH]]
        accepted, confidence = self._judge(c.generation, text, len(prompt), end)
        rounds = [(start, result, ns) for start, result, ns in c.rounds if start < end]
        corrected = 0
        for start, result, _ in rounds:
            if min(accepted[start], result.drafted) != result.accepted:
                accepted[start] = result.accepted
                corrected += 1
        lookups = [self._lookup(text, len(prompt) + position) for position in range(end)]
        recorded = Recorded(
            group=c.group,
            category=c.question.category,
            prompt_tokens=len(prompt),
            output_tokens=end,
            accepted_length=accepted,
            confidence=confidence,
            lookup_accepted_length=[accepted for accepted, _ in lookups],
            lookup_max_draft=[proposed for _, proposed in lookups],
            schedule=[result.drafted for _, result, _ in rounds],
            committed=[min(len(result.committed), end - start) for start, result, _ in rounds],
            round_ns=[ns for _, _, ns in rounds],
            corrected=corrected,
        )
        return recorded if self._target is None else self._sampled(recorded, c, text)

    def _sampled(self, recorded: Recorded, c: _Conversation, text: list[int]) -> Recorded:
        """The same of a sampled text, whose drafts are accepted by chance."""
        assert self._target is not None  # the caller asked
        assert c.generation.slot is not None  # it has not finished, see _start
        first, end = recorded.prompt_tokens, recorded.output_tokens
        target = self._target.forward([0], [text[:-1]], [0]).logits[0][first - 1 :]
        hidden = self._states.of(c.generation.slot)
        acceptance = acceptance_of(self._reading, text, hidden, target, self.decoding)
        found = replace(
            recorded,
            acceptance=acceptance[:end],
            lookup_acceptance=lookup_acceptance(text, target, self.decoding)[:end],
        )
        if isinstance(self._reading, PromptLookup):
            return found  # it accepts what is in the text, a draw as good as any
        rounds = [(start, result) for start, result, _ in c.rounds if start < end]
        rng = np.random.default_rng(_seed(c.group, c.said))
        return replace(
            found, accepted_length=drawn_lengths(acceptance, rounds, rng)[:end], corrected=0
        )

    def _judge(self, g: Generation, text: list[int], first: int, count: int) -> Judged:
        """What a round would accept of a draft from each output position."""
        drafter = self._reading
        if isinstance(drafter, HeadDrafter):
            assert g.slot is not None  # it has not finished, see _start
            return drafter.judge(text, self._states.of(g.slot), first, count)
        if isinstance(drafter, DraftModel):
            return judge_model(drafter, text, first, count)
        return Judged([self._lookup(text, first + place)[0] for place in range(count)], None)

    @staticmethod
    def _lookup(text: list[int], place: int) -> tuple[int, int]:
        """Accepted and proposed by prompt lookup before the token at ``place``."""
        proposed = PromptLookup().continuation(text[:place])[:MAX_DRAFT_LENGTH]
        return longest_match(proposed, text[place:])[0], len(proposed)


def _seed(group: int, said: list[str]) -> int:
    """Seed of the draws of an answer."""
    return group << 16 | len(said)


def judge_model(drafter: DraftModel, text: list[int], first: int, count: int) -> Judged:
    """A plain draft model's drafts: one bit per position says whether it is right.

    Args:
        drafter: Drafter, whose slot 0 is used.
        text: Prompt, output and what the target says after it, enough for the longest draft.
        first: Position of the first output token.
        count: Number of output tokens.
    """
    logits = drafter.model.forward([0], [text[:-1]], [0]).logits[0]
    right = logits.argmax(-1).tolist()
    accepted, run = [], 0
    for place in range(len(text) - 1, first - 1, -1):
        run = run + 1 if place > 0 and right[place - 1] == text[place] else 0
        accepted.append(run)
    unknown = int(first == 0)  # nothing is drafted before there is a token
    confidence = confidence_of(logits[first - 1 + unknown : first - 1 + count])
    return Judged(accepted[::-1][:count], [0] * unknown + confidence.tolist())


def assemble(
    recorded: Sequence[Recorded], categories: Sequence[str], info: TraceInfo, *, lookup: bool
) -> AcceptanceTrace:
    """The trace of recorded requests, of the serving drafter or of prompt lookup.

    Of prompt lookup there are neither rounds nor confidences.
    """

    def flat(lists: Sequence[Sequence[float]], kind: type[Any]) -> Any:
        return np.concatenate([np.array(own, kind) for own in lists])

    def starts(lists: Sequence[Sequence[int]]) -> Any:
        return np.concatenate([[0], np.cumsum([len(own) for own in lists])]).astype(np.int64)

    accepted = [r.lookup_accepted_length if lookup else r.accepted_length for r in recorded]
    given = [r.lookup_acceptance if lookup else r.acceptance for r in recorded]
    chances = [own for own in given if own is not None]
    served: dict[str, Any] = {}
    if not lookup:
        served = {
            "schedule": flat([r.schedule for r in recorded], np.uint8),
            "schedule_offset": starts([r.schedule for r in recorded]),
            "committed": flat([r.committed for r in recorded], np.uint8),
            "round_ns": flat([r.round_ns for r in recorded], np.int64),
        }
        told = [r.confidence for r in recorded if r.confidence is not None]
        if told:
            served["confidence"] = flat(told, np.uint8)
    return AcceptanceTrace(
        accepted_length=flat(accepted, np.uint8),
        offset=starts(accepted),
        output_tokens=np.array([r.output_tokens for r in recorded], np.int64),
        prompt_tokens=np.array([r.prompt_tokens for r in recorded], np.int64),
        category=np.array([list(categories).index(r.category) for r in recorded], np.int64),
        categories=tuple(categories),
        info=info,
        acceptance=flat(chances, np.float32) if chances else None,
        max_draft=flat([r.lookup_max_draft for r in recorded], np.uint8) if lookup else None,
        group=np.array([r.group for r in recorded], np.int64),
        **served,
    )
