"""UniBoost: arrivals boosted by attained work, without a prediction and without thrashing.

Source: "UniBoost" (arXiv 2606.18431, ICML 2026): serve the lowest arrival - b(w), with the boost of
`laps_env.policies.boost` and w the work that a request has attained, so that nothing is predicted.
MemGuard: who runs goes on until it has generated the next of 16, 32, 64, ... tokens, because
between two requests that pass each other in every round a small key-value pool thrashes. Adaptive
gamma: gamma falls to gamma / (1 + 4 max(t99 / t95 - 1, 0)) where the tail of times is heavy.

Assumed: the default of gamma; that a request without service yet has attained a millisecond (its
boost would be infinite); that t95 and t99 are percentiles of the time in the system of the requests
present, as a rule sees no others, and without the paper's moving average, as a rule remembers
nothing beyond a request.
"""

from __future__ import annotations

import math
from typing import Any

from laps_env.policies.base.remaining import LEAST_WORK_S
from laps_env.policies.base.rule_spec import Parameter, RuleSpec
from laps_env.policies.boost import GAMMA, boost_s
from laps_env.sim.observation import (
    ARRIVAL_NUMBER,
    ATTAINED_S,
    GENERATED_TOKENS,
    LAST_ACCEPTED,
    OCCUPIED,
    RAN,
    SERVER_COLUMNS,
    WAITING_S,
)
from laps_env.utils.jit import inlined, prepare, rule

#: More than any boosted time of arrival: who is guarded comes before all others.
_GUARDED = 1e10

#: Shared cell: gamma in force.
_GAMMA = len(SERVER_COLUMNS)


@inlined
def is_guarded(row: Any, first: float) -> bool:
    """Whether a request ran in the last round and passed none of the thresholds in it.

    Args:
        row: Request's row of ``observation["queue"]``.
        first: First threshold in tokens, which the others double; 0 for none.
    """
    generated = row[GENERATED_TOKENS]
    if row[RAN] == 0 or first == 0:
        return False
    if generated < first:
        return True
    passed = first * 2.0 ** math.floor(math.log2(generated / first))
    return generated - (row[LAST_ACCEPTED] + 1) >= passed


@inlined
def waiting_of_oldest(queue: Any, place: int) -> float:
    """Time in the system of the request in this place, 0 .., of the order of arrival."""
    waiting, before = 0.0, -1.0
    for _ in range(place + 1):
        first = math.inf
        for i in range(queue.shape[0]):
            number = queue[i, ARRIVAL_NUMBER]
            if queue[i, OCCUPIED] == 1 and before < number < first:
                first, waiting = number, queue[i, WAITING_S]
        before = first
    return waiting


@inlined
def waiting_percentile(queue: Any, present: int, above: float) -> float:
    """Time in the system that a share of the requests present is above, interpolated."""
    place = above * (present - 1)
    older = waiting_of_oldest(queue, int(place))
    younger = waiting_of_oldest(queue, int(place) + 1)
    return older + (younger - older) * (place - int(place))


@prepare
def adapt_gamma(queue: Any, server: Any, params: Any) -> None:
    """Leave the gamma of this moment to the rule."""
    server[_GAMMA] = params[0]
    present = 0
    for i in range(queue.shape[0]):
        present += int(queue[i, OCCUPIED])
    if params[2] == 1 and present > 1:
        t95 = waiting_percentile(queue, present, 0.05)
        t99 = waiting_percentile(queue, present, 0.01)
        if t95 > 0:
            server[_GAMMA] = params[0] / (1.0 + 4.0 * (t99 / t95 - 1.0))


@rule
def uniboost(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Boosted time of arrival, counted from now."""
    boosted = -row[WAITING_S] - boost_s(max(row[ATTAINED_S], LEAST_WORK_S), server[_GAMMA])
    return boosted - _GUARDED if is_guarded(row, params[1]) else boosted


SPEC = RuleSpec(
    "uniboost",
    "arrivals boosted by attained work, MemGuard",
    uniboost,
    (
        GAMMA,
        Parameter(
            "guard_tokens",
            16,
            0,
            256,
            "tokens before a running request may be pre-empted, then twice as many; 0: none",
            "published",
            integer=True,
        ),
        Parameter(
            "adaptive", 0, 0, 1, "1: gamma falls where the times are heavy-tailed", integer=True
        ),
    ),
    prepare=adapt_gamma,
    shared=1,
)
