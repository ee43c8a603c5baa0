"""FastServe: skip-join multi-level feedback queue.

Source: Wu et al., "Fast Distributed Inference Serving for Large Language Models" (arXiv 2305.05920;
NSDI 2026), section 4: a request joins the first queue whose quantum covers its prefill, is demoted
when it has used its queue's quantum, and returns to the first queue after 3 s without service.
The published first quantum, 10 ms, is shorter than one round here, so it is tuned too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from laps_env.policies.base.rule_spec import Parameter, RuleSpec
from laps_env.policies.base.traffic_model import Floats, TrafficModel
from laps_env.sim.observation import ATTAINED_S, IDLE_S, PROMPT_TOKENS
from laps_env.utils.jit import rule

_DEEPEST = 30


@rule
def fastserve(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Queue, kept in memory: [queue + 1, service when the request entered it]."""
    quantum, growth, patience = params[0], params[1], params[2]
    if memory[0] == 0:
        prefill = params[3] * row[PROMPT_TOKENS] + params[4]
        level = 0
        while quantum * growth**level < prefill and level < _DEEPEST:
            level += 1
        memory[0] = level + 1
    if row[IDLE_S] >= patience:
        memory[0] = 1
        memory[1] = row[ATTAINED_S]
    while (
        row[ATTAINED_S] - memory[1] >= quantum * growth ** (memory[0] - 1) and memory[0] <= _DEEPEST
    ):
        memory[1] += quantum * growth ** (memory[0] - 1)
        memory[0] += 1
    return memory[0]


def prefill_costs(traffic: TrafficModel) -> Floats:
    """Seconds per prompt token, and per request."""
    return np.array([traffic.seconds_per_prefill_token, traffic.seconds_per_prefill])


SPEC = RuleSpec(
    "fastserve",
    "skip-join multi-level feedback queue",
    fastserve,
    (
        Parameter(
            "quantum_s", 0.01, 0.005, 30.0, "quantum of the first queue", "published", log=True
        ),
        Parameter("growth", 2.0, 1.2, 6.0, "growth of the quantum", "published"),
        Parameter(
            "patience_s",
            3.0,
            1.0,
            1000.0,
            "idle time after which it is promoted",
            "published",
            True,
        ),
    ),
    cells=2,
    fitted=prefill_costs,
)
