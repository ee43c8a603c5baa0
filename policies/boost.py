"""Boost: first come first served, but short requests count as having come earlier.

Source: Yu and Scully, "Strongly Tail-Optimal Scheduling in the Light-Tailed M/G/1" (arXiv
2404.08826), the policy gamma-Boost: serve the lowest arrival - b(w) for a job of size w, with

    b(w) = (1 / gamma) ln(1 / (1 - exp(-gamma w))).

A large gamma is first come first served, a small one shortest job first. The paper takes gamma from
the decay rate of the tail and sizes as known; here gamma is tuned, and assumed are that the size is
the predicted length in seconds, at tokens per round shrunk to the category's mean and at the
server's present duration of a round, and that it is at least what has been generated.
"""

from __future__ import annotations

import math
from typing import Any

from laps_env.policies.base.remaining import remaining_tokens, shrunk_tokens_per_round, work_s
from laps_env.policies.base.rule_spec import Parameter, RuleSpec
from laps_env.policies.category_shrunk import WEIGHT, category_speeds
from laps_env.sim.observation import CATEGORY, GENERATED_TOKENS, PREDICTED_TOKENS, WAITING_S
from laps_env.utils.jit import inlined, rule

GAMMA = Parameter(
    "gamma", 0.03, 1e-3, 10.0, "rate at which the boost falls with work, 1/s", log=True
)

_FITTED = 2


@inlined
def boost_s(work: float, gamma: float) -> float:
    """The boost b(w) in seconds for so many seconds of work, more than 0."""
    return -math.log(-math.expm1(-gamma * work)) / gamma


@rule
def boost(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Boosted time of arrival, counted from now."""
    speed = shrunk_tokens_per_round(row, params[_FITTED + int(row[CATEGORY])], params[1])
    tokens = row[GENERATED_TOKENS] + remaining_tokens(row, row[PREDICTED_TOKENS], 0.0)
    return -row[WAITING_S] - boost_s(work_s(server, tokens, speed), params[0])


SPEC = RuleSpec(
    "boost",
    "arrivals boosted by the predicted time",
    boost,
    (GAMMA, WEIGHT),
    fitted=category_speeds,
    by_category=True,
)
