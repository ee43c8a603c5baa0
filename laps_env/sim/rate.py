"""Drafting by the request: each picked request drafts what its own acceptance is worth.

SmartSpec (`laps_env.sim.draft_length`) has one estimate and one draft length for all; a length for
each request is a variant of it, made here (assumed). What is known of a request is what it has
accepted so far, little at first: its alpha is shrunk to SmartSpec's running mean, which counts for
`PRIOR_TOKENS` tokens. Its n-th token is accepted with a chance of alpha^n, and the lengths of the
batch are those of most expected tokens per time of the round.

A step is shared, so that the round takes as many as its longest draft. At a speed v, in tokens per
nanosecond, a token that takes t is worth its time where alpha^n > v t, and a step where its tokens
are worth more together than the step. Both fall with n, so that the worthwhile lengths at v are
found step by step; where they make no round faster than v, v is the greatest there is. Source:
Dinkelbach, "On Nonlinear Fractional Programming", Management Science 13(7), 1967.

As in `smartspec_draft_length`, caches that are restored in the round are left out of its time.
"""

from __future__ import annotations

from typing import Any

from laps_env.sim.costs import Work, work_ns
from laps_env.sim.draft_length import (
    MAX_DRAFT_LENGTH,
    PROBE_LENGTH,
    PROBE_ROUNDS,
    mean_acceptance,
)
from laps_env.sim.state import Episode
from laps_env.utils.jit import inlined, jit

#: Name of the rule, in place of a draft length.
RATE = "rate"

#: What stands in the kernel's constants for it.
BY_RATE = -7

#: Tokens of a request's own that the mean of all counts for (assumed; on *validation* 10 and 50
#: are as good within 0.2 % of throughput, 5 is up to 0.5 % worse).
PRIOR_TOKENS = 20.0


@jit
def draft_by_rate(c: Any, server: Any, e: Episode, kv: int, longest: int) -> int:
    """Choose what each picked request drafts (``slot.drafting``); the most of any.

    Args:
        c: Constants of the server.
        server: Record of the server, with its picked requests.
        e: Its arrays.
        kv: Context tokens of the picked requests.
        longest: Most tokens a request for which the pool has room.
    """
    longest = min(longest, MAX_DRAFT_LENGTH)
    steps, speed, faster = 0, -1.0, 0.0
    while faster > speed:
        speed = faster
        steps, faster = draft_what_pays(c, server, e, kv, longest, speed)
    if steps == 0 and server.undrafted >= PROBE_ROUNDS:
        steps = min(longest, PROBE_LENGTH)
        for k in range(server.picked):
            e.slots[e.batch[k]].drafting = steps
    return steps


@inlined
def draft_what_pays(
    c: Any, server: Any, e: Episode, kv: int, longest: int, speed: float
) -> tuple[int, float]:
    """Draft every token that is worth its time at a speed, in tokens per nanosecond.

    Returns:
        Draft steps of the round, and the speed that it has.
    """
    mean = mean_acceptance(server)
    for k in range(server.picked):
        slot = e.slots[e.batch[k]]
        slot.drafting = 0
        slot.chance = own_acceptance(slot, mean)
    expected, steps, drafted, draft_kv = float(server.picked), 0, 0, 0
    while steps < longest:
        gain = -speed * c.draft_step_ns
        for k in range(server.picked):
            gain += max(worth(c, e, e.batch[k], speed), 0.0)
        if gain <= 0.0:
            break
        steps += 1
        for k in range(server.picked):
            slot = e.slots[e.batch[k]]
            if worth(c, e, e.batch[k], speed) > 0.0:
                slot.drafting = steps
                expected += slot.chance
                drafted += 1
                draft_kv += e.hot[e.batch[k]].context
            slot.chance *= own_acceptance(slot, mean)
    work = Work(server.picked + drafted, 0, kv, steps, drafted, draft_kv, 0, 0, 0)
    return steps, expected / work_ns(c, work)


@inlined
def own_acceptance(slot: Any, mean: float) -> Any:
    """A request's alpha: what it has accepted of its decided tokens, shrunk to the mean."""
    decided = slot.accepted + slot.refused
    return (slot.accepted + PRIOR_TOKENS * mean) / (decided + PRIOR_TOKENS)


@inlined
def worth(c: Any, e: Episode, index: int, speed: float) -> Any:
    """Tokens that a request's next draft token is expected to bring, less those of its time."""
    time = c.target_token_ns + c.draft_token_ns + c.draft_kv_token_ns * e.hot[index].context
    return e.slots[index].chance - speed * time
