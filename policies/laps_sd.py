"""LAPS-SD: least attained service while acceptance is uncertain, shortest estimate once stable.

Source: Li, Chen, Li, "Semi-Clairvoyant Scheduling of Speculative Decoding Requests to Minimize LLM
Inference Latency" (arXiv 2505.17074, IJCAI 2025).

Known from the paper: every request starts *non-perceptible* in the highest-priority queue; several
queues, pre-empted across queues in the order of least attained service; a request whose token
acceptance rate has become *stable* turns *perceptible*, its acceptance rate A and output length L
are predicted, and it is scheduled by its estimated execution time

    T = n L T_SSM / (n A + 1) + L T_LLM / (n A + 1),

L / (n A + 1) rounds of n draft steps and one verification.

Not known, and therefore a parameter here, "assumed": the number of queues, their thresholds and
growth; the stability test (here: enough rounds, and a small standard error of the rate) and its
window (``acceptance_window`` of the server); whether T is of the whole request or of the rest;
whether A and L stay as they were when A became stable; how perceptible and non-perceptible requests
of one queue are ordered (here: a perceptible request joins the queue that covers its T, and inside
a queue the non-perceptible come first, first come first served, then the shortest T).
`docs/reproduction.md` sweeps each.
"""

from __future__ import annotations

import math
from typing import Any

from laps_env.policies.base.remaining import OVERRUN, least_tokens, remaining_tokens
from laps_env.policies.base.rule_spec import Parameter, RuleSpec
from laps_env.policies.las import GROWTH, QUANTUM, QUEUES, queue_of
from laps_env.sim.observation import (
    ACCEPTED,
    ATTAINED_S,
    DRAFT_LENGTH,
    DRAFT_STEP_S,
    DRAFTED,
    PREDICTED_TOKENS,
    ROUNDS,
    VERIFY_S,
    WINDOW_SPREAD,
)
from laps_env.utils.jit import inlined, rule

#: More than any estimate in seconds: the distance between two queues' priorities.
QUEUE = 1e7


@inlined
def is_stable(row: Any, fewest_rounds: float, tolerance: float) -> bool:
    """The stability test (assumed): the standard error of the acceptance rate is small.

    The error is the spread of the recent rounds' rates over the root of all rounds seen.
    """
    if row[ROUNDS] < fewest_rounds or row[DRAFTED] == 0:
        return False
    return row[WINDOW_SPREAD] <= tolerance * math.sqrt(row[ROUNDS])


@inlined
def estimated_time(server: Any, tokens: float, acceptance_rate: float) -> float:
    """T in seconds for ``tokens`` output tokens (arXiv 2505.17074, the estimate of T)."""
    n = server[DRAFT_LENGTH]
    rounds = tokens / (n * acceptance_rate + 1.0)
    return rounds * (n * server[DRAFT_STEP_S] + server[VERIFY_S])


@rule
def laps_sd(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Queue first, then the estimate.

    Memory: [perceptible, A and predicted L when it became so, latest prediction, when it was told].
    """
    queues, quantum, growth = params[0], params[1], params[2]
    least = least_tokens(row, params[7], memory[3:])
    if memory[0] == 0 and is_stable(row, params[3], params[4]):
        memory[0] = 1.0
        memory[1] = row[ACCEPTED] / row[DRAFTED]
        memory[2] = row[PREDICTED_TOKENS]
    if memory[0] == 0:
        return QUEUE * queue_of(row[ATTAINED_S], queues, quantum, growth)
    frozen, remaining = params[5] == 1, params[6] == 1
    rate = memory[1] if frozen else row[ACCEPTED] / max(row[DRAFTED], 1.0)
    tokens = memory[2] if frozen else row[PREDICTED_TOKENS]
    if remaining:
        tokens = remaining_tokens(row, tokens, least)
    time = estimated_time(server, tokens, rate)
    return QUEUE * queue_of(time, queues, quantum, growth) + time


SPEC = RuleSpec(
    "laps_sd",
    "least attained / perceived service (the reference)",
    laps_sd,
    (
        QUEUES,
        QUANTUM,
        GROWTH,
        Parameter(
            "fewest_rounds", 3, 1, 40, "rounds before a rate is stable", log=True, integer=True
        ),
        Parameter("tolerance", 0.1, 0.02, 1.0, "standard error of a stable rate", log=True),
        Parameter("frozen", 0, 0, 1, "1: A and L stay as when A became stable", integer=True),
        Parameter("remaining", 1, 0, 1, "1: T of what is left, 0: of the whole", integer=True),
        OVERRUN,
    ),
    cells=5,
)
