"""The simulated server: its costs, and the rules of its batch and its cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from laps_env.sim.costs import CONSTANT_NAMES, CostModel
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH, SMARTSPEC
from laps_env.utils.checks import check_count

#: A recorded draft schedule may hold any uint8 draft length; look-ahead is reserved for the most.
MAX_SCHEDULED_DRAFT_LENGTH = 255

Eviction = Literal["recompute", "swap"]
Victim = Literal["longest_idle", "latest_arrival", "largest"]

EVICTIONS: tuple[Eviction, ...] = ("recompute", "swap")
VICTIMS: tuple[Victim, ...] = ("longest_idle", "latest_arrival", "largest")


@dataclass(frozen=True)
class ServerModel:
    """One speculative-decoding server: its costs and the rules of its batch and its cache.

    Attributes:
        cost: Cost model of its rounds.
        batch_size: Most requests in one round, at least 1.
        draft_length: Tokens drafted a round, 0 (no speculation) to 16, or ``"smartspec"``.
        pool_tokens: Capacity of the key-value pool in tokens.
        eviction: Fate of a victim's cache: dropped and recomputed, or swapped to the host.
        victim: Request that loses its cache when the pool needs room (ties: the latest arrival).
        acceptance_window: Rounds in the windowed acceptance statistics, at least 1.

    Raises:
        ValueError: A value out of range; the message names it, what was expected and what came.
    """

    cost: CostModel
    batch_size: int = 1
    draft_length: int | str = 4
    pool_tokens: int = 400_000
    eviction: Eviction = "recompute"
    victim: Victim = "longest_idle"
    acceptance_window: int = 10

    def __post_init__(self) -> None:
        for name in ("batch_size", "pool_tokens", "acceptance_window"):
            check_count(name, getattr(self, name))
        if self.draft_length != SMARTSPEC and not (
            isinstance(self.draft_length, int | np.integer)
            and not isinstance(self.draft_length, bool)
            and 0 <= self.draft_length <= MAX_DRAFT_LENGTH
        ):
            raise ValueError(
                f"draft_length: expected 0..{MAX_DRAFT_LENGTH} or {SMARTSPEC!r}, "
                f"got {self.draft_length!r}"
            )
        if self.eviction not in EVICTIONS:
            raise ValueError(f"eviction: expected one of {EVICTIONS}, got {self.eviction!r}")
        if self.victim not in VICTIMS:
            raise ValueError(f"victim: expected one of {VICTIMS}, got {self.victim!r}")

    @property
    def reference_draft_length(self) -> int:
        """The fixed draft length; 0 where a rule chooses it."""
        return 0 if isinstance(self.draft_length, str) else int(self.draft_length)

    def lookahead(self, scheduled: bool) -> int:
        """Cache tokens that a pick reserves beyond a request's context: longest draft + 1.

        SmartSpec reserves for its draft when it has chosen one, and chooses what has room.
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
        record["draft_length"] = -1 if isinstance(self.draft_length, str) else self.draft_length
        record["pool_tokens"] = self.pool_tokens
        record["swap"] = self.eviction == "swap"
        record["victim"] = VICTIMS.index(self.victim)
        return record[()]


#: Layout of the kernel's constants: the cost model, then the server's rules in numbers.
CONSTANTS = np.dtype(
    [(name, np.float64) for name in CONSTANT_NAMES]
    + [
        ("batch_size", np.int64),
        ("draft_length", np.int64),  # -1: the SmartSpec rule
        ("pool_tokens", np.int64),
        ("swap", np.int64),
        ("victim", np.int64),
    ],
    align=True,
)
