"""The simulated server: its costs, and the rules of its batch and its cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from laps_env.sim.adaptive_steps import SGLANG
from laps_env.sim.confidence import BY_CONFIDENCE, CONFIDENCE, confident_of
from laps_env.sim.costs import CONSTANT_NAMES, CostModel
from laps_env.sim.draft_length import (
    BY_POLICY,
    BY_SGLANG,
    BY_SMARTSPEC,
    BY_TABLE,
    MAX_DRAFT_LENGTH,
    POLICY,
    SMARTSPEC,
    TABLE_SIZE,
)
from laps_env.sim.rate import BY_RATE, RATE
from laps_env.sim.topk import BY_TOPK, TOPK, topk_of
from laps_env.utils.checks import check_count

#: A recorded draft schedule may hold any uint8 draft length; look-ahead is reserved for the most.
MAX_SCHEDULED_DRAFT_LENGTH = 255

Eviction = Literal["recompute", "swap"]
Victim = Literal["longest_idle", "latest_arrival", "largest"]

#: How long a round drafts: a number, the name of a rule, or a table by the size of the batch.
DraftLength = int | str | tuple[int, ...]

#: Rules that choose it, with what the kernel has for each.
DRAFT_RULES = {SMARTSPEC: BY_SMARTSPEC, SGLANG: BY_SGLANG, RATE: BY_RATE}

EVICTIONS: tuple[Eviction, ...] = ("recompute", "swap")
VICTIMS: tuple[Victim, ...] = ("longest_idle", "latest_arrival", "largest")


@dataclass(frozen=True)
class ServerModel:
    """One speculative-decoding server: its costs and the rules of its batch and its cache.

    Attributes:
        cost: Cost model of its rounds.
        batch_size: Most requests in one round, at least 1.
        draft_length: Tokens drafted a round, 0 (no speculation) to 16; or a rule's name,
            ``"smartspec"``, ``"sglang"``, ``"rate"`` (`laps_env.sim.rate`), or ``"confidence"``,
            also with its threshold and longest draft, ``"confidence:0.25:4"``
            (`laps_env.sim.confidence`), or ``"topk"``, also with what each request drafts,
            ``"topk:4"`` (`laps_env.sim.topk`); or such numbers for batches of 1, 2, ... requests,
            64 at most, larger ones taking the last (vLLM's table); or ``"policy"``, what a
            scheduling rule that also decides this asks for each request.
        pool_tokens: Capacity of the key-value pool in tokens.
        eviction: Fate of a victim's cache: dropped and recomputed, or swapped to the host.
        victim: Request that loses its cache when the pool needs room (ties: the latest arrival).
        acceptance_window: Rounds in the windowed acceptance statistics, at least 1.

    Raises:
        ValueError: A value out of range; the message names it, what was expected and what came.
    """

    cost: CostModel
    batch_size: int = 1
    draft_length: DraftLength = 4
    pool_tokens: int = 400_000
    eviction: Eviction = "recompute"
    victim: Victim = "longest_idle"
    acceptance_window: int = 10

    def __post_init__(self) -> None:
        for name in ("batch_size", "pool_tokens", "acceptance_window"):
            check_count(name, getattr(self, name))
        if not _is_draft_length(self.draft_length):
            forms = (*DRAFT_RULES, f"{CONFIDENCE}:0..1:0..16", f"{TOPK}:0..16")
            names = " or ".join(map(repr, forms))
            raise ValueError(
                f"draft_length: expected 0..{MAX_DRAFT_LENGTH}, {names}, or a tuple of 1 to "
                f"{TABLE_SIZE} such numbers, got {self.draft_length!r}"
            )
        if self.eviction not in EVICTIONS:
            raise ValueError(f"eviction: expected one of {EVICTIONS}, got {self.eviction!r}")
        if self.victim not in VICTIMS:
            raise ValueError(f"victim: expected one of {VICTIMS}, got {self.victim!r}")

    @property
    def needs_confidence(self) -> bool:
        """Whether its draft length goes by the draft's confidences."""
        return needs_confidence(self.draft_length)

    @property
    def reference_draft_length(self) -> int:
        """The fixed draft length; 0 where a rule chooses it."""
        return 0 if isinstance(self.draft_length, str | tuple) else int(self.draft_length)

    def lookahead(self, scheduled: bool) -> int:
        """Cache tokens that a pick reserves beyond a request's context: longest draft + 1.

        What chooses by the round reserves for its draft when it has chosen, and takes no more
        than has room.
        """
        longest = MAX_SCHEDULED_DRAFT_LENGTH if scheduled else self.reference_draft_length
        return longest + 1

    def with_changes(self, **changes: Any) -> ServerModel:
        """A copy with some fields replaced (validated again)."""
        return replace(self, **changes)

    def constants(self) -> Any:
        """The record of constants that the kernel reads (`CONSTANTS`)."""
        record = np.zeros((), CONSTANTS)
        for name in CONSTANT_NAMES:
            record[name] = getattr(self.cost, name)
        record["batch_size"] = self.batch_size
        if (rule := confident_of(self.draft_length)) is not None:
            record["draft_length"] = BY_CONFIDENCE
            record["threshold"], record["most_drafted"] = rule
        elif (drafted := topk_of(self.draft_length)) is not None:
            record["draft_length"], record["most_drafted"] = BY_TOPK, drafted
        elif self.draft_length == POLICY:
            record["draft_length"] = BY_POLICY
        elif isinstance(self.draft_length, str):
            record["draft_length"] = DRAFT_RULES[self.draft_length]
        elif isinstance(self.draft_length, tuple):
            record["draft_length"] = BY_TABLE
            record["draft_table"] = self.draft_length[-1]
            record["draft_table"][: len(self.draft_length)] = self.draft_length
        else:
            record["draft_length"] = record["most_drafted"] = self.draft_length
        record["pool_tokens"] = self.pool_tokens
        record["swap"] = self.eviction == "swap"
        record["victim"] = VICTIMS.index(self.victim)
        return record[()]


def needs_confidence(draft_length: object) -> bool:
    """Whether a draft length goes by the draft's confidences."""
    given = confident_of(draft_length), topk_of(draft_length)
    return draft_length == POLICY or any(rule is not None for rule in given)


def _is_draft_length(value: object) -> bool:
    if isinstance(value, tuple):
        return 1 <= len(value) <= TABLE_SIZE and all(map(_is_number, value))
    return _is_number(value) or value in DRAFT_RULES or needs_confidence(value)


def _is_number(value: object) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and 0 <= value <= MAX_DRAFT_LENGTH  # type: ignore[operator]  # it is a number


#: Layout of the kernel's constants: the cost model, then the server's rules in numbers.
CONSTANTS = np.dtype(
    [(name, np.float64) for name in CONSTANT_NAMES]
    + [
        ("batch_size", np.int64),
        ("draft_length", np.int64),  # below 0: a rule or a table
        ("threshold", np.float64),  # of a draft by confidences
        ("most_drafted", np.int64),  # by it, or by top-k; or the fixed length
        ("draft_table", np.int64, (TABLE_SIZE,)),  # for batches of 1, 2, ...
        ("pool_tokens", np.int64),
        ("swap", np.int64),
        ("victim", np.int64),
    ],
    align=True,
)
