"""Every physical constant of the simulated server, in one frozen, typed place.

Times are nanoseconds; a round's duration is linear in what the round does
(`docs/physics.md` has the formula term by term), so a cost model is eight numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from laps_env.sim.draft_length import MAX_DRAFT_LENGTH, SMARTSPEC
from laps_env.utils.checks import check_count, is_finite

#: A recorded draft schedule may hold any uint8 draft length; look-ahead is reserved for the most.
MAX_SCHEDULED_DRAFT_LENGTH = 255

Eviction = Literal["recompute", "swap"]
Victim = Literal["longest_idle", "latest_arrival", "largest"]

EVICTIONS: tuple[Eviction, ...] = ("recompute", "swap")
VICTIMS: tuple[Victim, ...] = ("longest_idle", "latest_arrival", "largest")


@dataclass(frozen=True)
class CostModel:
    """What a round costs: ten non-negative constants in nanoseconds.

    Attributes:
        overhead_ns: per round, host and sampling.
        target_pass_ns: per forward pass of the target model (one a round).
        target_token_ns: per token in that pass (drafted + 1 per request, and prefilled tokens).
        target_kv_token_ns: per key-value token that the pass reads.
        draft_step_ns: per sequential draft step of the batch.
        draft_token_ns: per drafted token.
        prefill_request_ns: per request whose cache is (re)computed in the round.
        swap_token_ns: per key-value token moved between device and host, either way.
        draft_kv_token_ns: per key-value token that a draft step reads.
        swap_request_ns: per request whose cache is moved between device and host.
        source: where the numbers come from, with what had to be assumed.

    Raises:
        ValueError: a constant is negative or not finite, or a round would take no time.
    """

    overhead_ns: float
    target_pass_ns: float
    target_token_ns: float
    target_kv_token_ns: float
    draft_step_ns: float
    draft_token_ns: float
    prefill_request_ns: float
    swap_token_ns: float
    draft_kv_token_ns: float = 0.0
    swap_request_ns: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "source" and not (is_finite(value) and value >= 0):
                raise ValueError(f"{field.name}: expected a finite number >= 0, got {value!r}")
        if self.overhead_ns + self.target_pass_ns < 1:
            raise ValueError("expected overhead_ns + target_pass_ns >= 1 ns: time must pass")


@dataclass(frozen=True)
class ServerModel:
    """One speculative-decoding server: its costs and the rules of its batch and its cache.

    Attributes:
        cost: the cost model.
        batch_size: requests in one round, at least 1.
        draft_length: tokens drafted a round, 0 (no speculation) to 16, or ``"smartspec"``.
        pool_tokens: capacity of the key-value pool in tokens.
        eviction: what happens to a victim's cache: dropped and recomputed, or swapped to the host.
        victim: who loses its cache when the pool needs room (ties: the latest arrival).
        acceptance_window: rounds in the windowed acceptance statistics, at least 1.

    Raises:
        ValueError: naming the field, what was expected and what came.
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
        """Cache tokens reserved for a running request beyond its context: longest draft + 1."""
        if scheduled:
            return MAX_SCHEDULED_DRAFT_LENGTH + 1
        longest = MAX_DRAFT_LENGTH if self.draft_length == SMARTSPEC else int(self.draft_length)
        return longest + 1

    def with_changes(self, **changes: Any) -> ServerModel:
        """A copy with some fields replaced (validated again)."""
        return replace(self, **changes)

    def constants(self) -> Any:
        """The record of constants that the kernel reads (`CONSTANTS`)."""
        record = np.zeros((), CONSTANTS)
        for name, value in asdict(self.cost).items():
            if name != "source":
                record[name] = value
        record["batch_size"] = self.batch_size
        record["draft_length"] = -1 if isinstance(self.draft_length, str) else self.draft_length
        record["pool_tokens"] = self.pool_tokens
        record["swap"] = self.eviction == "swap"
        record["victim"] = VICTIMS.index(self.victim)
        return record[()]


#: Layout of the kernel's constants: the cost model, then the server's rules in numbers.
CONSTANTS = np.dtype(
    [(f.name, np.float64) for f in fields(CostModel) if f.name != "source"]
    + [
        ("batch_size", np.int64),
        ("draft_length", np.int64),  # -1: the SmartSpec rule
        ("pool_tokens", np.int64),
        ("swap", np.int64),
        ("victim", np.int64),
    ],
    align=True,
)
