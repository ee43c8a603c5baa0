"""What a round costs: the constants of a cost model, and the one formula that uses them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from laps_env.utils.checks import is_finite
from laps_env.utils.jit import inlined

#: Largest constant of a cost model: a quarter of an hour for a pass or a token, at which the clock
#: of an episode does not wrap.
LARGEST_NS = 1e12


@dataclass(frozen=True)
class CostModel:
    """Costs of a round: ten non-negative constants in nanoseconds.

    Attributes:
        overhead_ns: Host work and sampling of a round.
        target_pass_ns: Forward pass of the target model (one a round).
        target_token_ns: Token in that pass (drafted + 1 per request, and prefilled tokens).
        target_kv_token_ns: Key-value token that the pass reads.
        draft_step_ns: Sequential draft step of the batch.
        draft_token_ns: Drafted token.
        prefill_request_ns: Request whose cache is (re)computed in the round.
        swap_token_ns: Key-value token moved between device and host, either way.
        draft_kv_token_ns: Key-value token that a draft step reads.
        swap_request_ns: Request whose cache is moved between device and host.
        source: Origin of the numbers, with what had to be assumed.

    Raises:
        ValueError: A constant is out of range, or a round would take no time.
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
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in CONSTANT_NAMES:
            value = getattr(self, name)
            if not (is_finite(value) and 0 <= value <= LARGEST_NS):
                raise ValueError(
                    f"{name}: expected a number in 0 .. {LARGEST_NS:g} (nanoseconds), got {value!r}"
                )
        if self.overhead_ns + self.target_pass_ns < 1:
            raise ValueError("expected overhead_ns + target_pass_ns >= 1 ns: time must pass")


#: Names of the constants, in nanoseconds.
CONSTANT_NAMES = tuple(f.name for f in fields(CostModel) if f.name != "source")


class Work(NamedTuple):
    """What a round does, in counts of tokens, steps and requests."""

    verify: int  # tokens of the verification: drafted + 1 per request
    prefill: int  # tokens whose cache is (re)computed
    kv: int  # context tokens that the target reads
    steps: int  # sequential draft steps of the batch
    drafted: int
    draft_kv: int  # context tokens that the draft steps read
    prefills: int  # requests whose cache is (re)computed
    swaps: int  # requests whose cache is moved between device and host
    swapped: int  # tokens of these


@inlined
def duration_ns(c: Any, work: Work) -> int:
    """Duration of a round: linear in its work, rounded once, half to even."""
    return int(np.rint(work_ns(c, work)))


@inlined
def work_ns(c: Any, work: Work) -> float:
    """Time that the work of a round takes, not rounded."""
    return (
        c.overhead_ns
        + c.target_pass_ns
        + c.target_token_ns * (work.verify + work.prefill)
        + c.target_kv_token_ns * work.kv
        + c.draft_step_ns * work.steps
        + c.draft_token_ns * work.drafted
        + c.draft_kv_token_ns * work.draft_kv
        + c.prefill_request_ns * work.prefills
        + c.swap_request_ns * work.swaps
        + c.swap_token_ns * work.swapped
    )


@inlined
def verification_ns(c: Any, work: Work) -> float:
    """Time that a scheduler measures as T_LLM: the target's pass with overhead, no prefill."""
    return work_ns(c, Work(work.verify, 0, work.kv, 0, 0, 0, 0, 0, 0))


@inlined
def draft_step_ns(c: Any, work: Work) -> float:
    """Time that a scheduler measures as T_SSM, in a round with at least one draft step."""
    drafting = (
        c.draft_step_ns * work.steps
        + c.draft_token_ns * work.drafted
        + c.draft_kv_token_ns * work.draft_kv
    )
    return drafting / work.steps
