"""What an episode costs under an objective: the sum over its requests, so far.

The reward of a step is minus what the cost grew by, so that an episode's rewards add up to minus
its cost whatever the order of service.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.sim.state import BatchedState
from laps_env.utils.jit import inlined, jit

#: Objectives of an environment, each with what a request costs.
OBJECTIVES = {
    "mean_latency": "its latency, in seconds",
    "tail_latency": "the square of its latency, in seconds squared",
    "slo_attainment": "1 once it has missed one of its limits",
}

_MEAN_LATENCY, _TAIL_LATENCY, _SLO_ATTAINMENT = range(len(OBJECTIVES))


@jit
def charge(state: BatchedState, objective: int, skip: npt.NDArray[np.bool_], scale: float) -> None:
    """Put into ``state.reward`` minus what the step of every server not skipped has cost.

    Args:
        state: Servers after the step.
        objective: Place in `OBJECTIVES`.
        skip: Servers that took no step, [E].
        scale: Cost per unit of reward.
    """
    for i in range(skip.size):
        if skip[i]:
            continue
        state.reward[i] = 0.0
        if state.ran_round[i]:  # else no time has passed
            before = state.servers[i].cost
            state.reward[i] = (before - cost_so_far(state, i, objective)) / scale


@inlined
def cost_so_far(state: BatchedState, i: int, objective: int) -> float:
    """What the requests of a server have cost; those are summed once before which all are done."""
    server, requests = state.servers[i], state.requests[i]
    while server.settled < server.arrived and requests[server.settled].completion_ns > 0:
        server.settled_cost += _cost(requests[server.settled], server.now, objective)
        server.settled += 1
    server.cost = server.settled_cost
    for number in range(server.settled, server.arrived):
        server.cost += _cost(requests[number], server.now, objective)
    return server.cost


@inlined
def _cost(request: Any, now: int, objective: int) -> float:
    """What one request has cost by ``now``."""
    done = request.completion_ns > 0
    cost = ((request.completion_ns if done else now) - request.arrival_ns) * 1e-9
    if objective == _TAIL_LATENCY:
        cost = cost * cost
    elif objective == _SLO_ATTAINMENT:
        cost = 1.0 if _missed(request, now, done) else 0.0
    return request.weight * cost


@inlined
def _missed(request: Any, now: int, done: bool) -> bool:
    """Whether it is certain by ``now`` that a request does not keep its limits."""
    first = (request.first_token_ns if request.first_token_ns > 0 else now) - request.arrival_ns
    whole = (request.completion_ns if done else now) - request.arrival_ns
    if first > request.ttft_limit_ns or whole > request.e2e_limit_ns:
        return True
    decoding = request.completion_ns - request.first_token_ns
    tokens = max(request.output_tokens - 1, 1)
    return done and decoding / tokens > request.tpot_limit_ns
