"""Request of the reference simulator: its workload, and what has happened to it so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Request:
    """One request; times in nanoseconds, context and length in tokens."""

    number: int  # arrival number, from 0
    arrival_ns: int
    prompt: int
    length: int  # true output tokens, end-of-sequence included
    predicted: float  # as told last
    category: int
    runs: list[int]  # accepted_length by output position
    max_draft: list[int] | None  # most draft tokens by output position
    schedule: list[int] | None  # draft length by own round
    confidence: list[int] | None = None  # of the draft, in 255ths, by output position
    refreshed: dict[int, float] = field(default_factory=dict)  # predictions by tokens generated
    limits_ns: list[int] | None = None  # to the first token, per token behind it, to the last
    slot: int = -1  # -1 outside the table
    rounds_at_entry: int = 0  # the server's rounds when it entered its slot
    generated: int = 0
    asked: int = 0  # what the agent wants it to draft, where the agent decides
    history: list[tuple[int, int]] = field(default_factory=list)  # (drafted, accepted) by round
    last_round: int = 0  # number (from 1) of the last round it ran in
    last_end_ns: int = 0  # when that round ended
    gaps_ns: list[int] = field(default_factory=list)  # from the end of a round to that of its next
    resident: bool = False  # its key-value cache is in the pool
    swapped: bool = False  # its key-value cache was moved out
    attained_ns: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    first_token_ns: int = -1
    completion_ns: int = -1

    @property
    def context(self) -> int:
        return self.prompt + self.generated

    @property
    def accepted(self) -> int:
        """Draft tokens that were accepted."""
        return sum(accepted for _, accepted in self.history)

    @property
    def decided(self) -> int:
        """Draft tokens whose fate was decided: the accepted, and the first refused of a round."""
        return sum(accepted + (accepted < drafted) for drafted, accepted in self.history)

    def draft_length(self, chosen: int) -> int:
        """Draft length of its next round: its schedule goes before what the server chose."""
        return chosen if self.schedule is None else self.schedule[len(self.history)]

    def confident(self, longest: int, threshold: float) -> int:
        """Tokens drafted until the product of confidences is below the threshold, that one too."""
        assert self.confidence is not None
        chance = 1.0
        for drafted in range(longest):
            at = self.generated + drafted
            if at < self.length:
                chance *= self.confidence[at] / 255
            if chance < threshold:
                return drafted + 1
        return longest

    def chances(self, drafted: int) -> list[float]:
        """Products of confidences along a draft, which the end of the output does not lower."""
        assert self.confidence is not None
        found, chance = [], 1.0
        for at in range(self.generated, self.generated + drafted):
            chance *= self.confidence[at] / 255 if at < self.length else 1.0
            found.append(chance)
        return found

    def drafts(self, draft_length: int, position: int) -> int:
        """Tokens drafted at an output position."""
        if self.max_draft is None:
            return draft_length
        return min(draft_length, self.max_draft[position])

    def committed(self, drafted: int, position: int) -> int:
        """Tokens that a round at an output position commits."""
        return min(min(self.runs[position], drafted) + 1, self.length - position)


def refreshes_of(workload: Any) -> list[dict[int, float]]:
    """By request what is told of its length after so many tokens, one after the other."""
    every, told = getattr(workload, "refresh_every", 0), []
    flat = iter(workload.refreshed_tokens if every else ())
    for length in workload.output_tokens:
        when = range(every, int(length), every) if every else ()
        told.append({tokens: float(next(flat)) for tokens in when})
    return told


def requests_of(workload: Any) -> list[Request]:
    """The requests of a workload, by arrival number, in Python integers (uint8 would overflow)."""
    refreshed = refreshes_of(workload)
    return [
        Request(
            number=i,
            arrival_ns=int(workload.arrival_ns[i]),
            prompt=int(workload.prompt_tokens[i]),
            length=int(workload.output_tokens[i]),
            predicted=float(workload.predicted_tokens[i]),
            category=int(workload.category[i]),
            runs=_own(workload.accepted_length, workload.offset, i) or [],
            max_draft=_own(workload.max_draft, workload.offset, i),
            schedule=_own(workload.draft_schedule, workload.draft_schedule_offset, i),
            confidence=_own(getattr(workload, "confidence", None), workload.offset, i),
            refreshed=refreshed[i],
            limits_ns=None if workload.limits_ns is None else workload.limits_ns[i].tolist(),
        )
        for i in range(len(workload.arrival_ns))
    ]


def _own(values: Any, offset: Any, i: int) -> list[int] | None:
    """The part of a flat array that belongs to request i."""
    if values is None:
        return None
    return [int(value) for value in values[offset[i] : offset[i + 1]]]
