"""What a round costs, the one formula that the kernel and the time alone share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from laps_env.utils.jit import inlined


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
    """A round's duration: linear in its work, rounded once, half to even."""
    return int(
        np.rint(
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
    )


@inlined
def verification_ns(c: Any, work: Work) -> float:
    """What a scheduler measures as T_LLM: the target's pass with overhead, without prefill."""
    return (
        c.overhead_ns
        + c.target_pass_ns
        + c.target_token_ns * work.verify
        + c.target_kv_token_ns * work.kv
    )


@inlined
def draft_step_ns(c: Any, work: Work) -> float:
    """What a scheduler measures as T_SSM, in a round with at least one draft step."""
    drafting = (
        c.draft_step_ns * work.steps
        + c.draft_token_ns * work.drafted
        + c.draft_kv_token_ns * work.draft_kv
    )
    return drafting / work.steps
