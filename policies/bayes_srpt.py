"""Bayes SRPT: the prediction combined with the category's length law.

Given the prediction, log L is normal (`laps_env.policies.base.traffic_model.TrafficModel`, fitted
on the training split): for log L ~ Normal(m_c, t_c^2) in category c and a prediction that is
log-normal around L, that is the posterior with the usual weights. The expected length is its
log-normal mean, and remaining rounds = (expected length - generated) / tokens per round shrunk to
the category's mean. Once a prediction has been refreshed, the same is said of what was left then,
by a law of its own; before that, all was left.
"""

from __future__ import annotations

import math
from typing import Any

from laps_env.policies.base.posterior import (
    LAW_SIZE,
    SPEED,
    VARIANCE,
    law_in_force,
    length_posteriors,
    posterior_log_rest,
    told_at,
)
from laps_env.policies.base.remaining import OVERRUN, remaining_tokens, shrunk_tokens_per_round
from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.policies.category_shrunk import WEIGHT
from laps_env.sim.observation import CATEGORY, GENERATED_TOKENS
from laps_env.utils.jit import inlined, rule

_FITTED = 2
_SIZE = 2 * LAW_SIZE


@inlined
def expected_rounds(row: Any, laws: Any, overrun: float, weight: float) -> float:
    """Expected remaining rounds under the laws of a request's category."""
    law = laws[law_in_force(row, laws) :]
    told = told_at(row, law)
    length = told + math.exp(posterior_log_rest(row, law) + law[VARIANCE] / 2)
    speed = shrunk_tokens_per_round(row, law[SPEED], weight)
    return remaining_tokens(row, length, overrun * (row[GENERATED_TOKENS] - told)) / speed


@rule
def bayes_srpt(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Expected remaining rounds."""
    first = _FITTED + _SIZE * int(row[CATEGORY])
    return expected_rounds(row, params[first : first + _SIZE], params[0], params[1])


SPEC = RuleSpec(
    "bayes_srpt",
    "expected remaining rounds under the length law",
    bayes_srpt,
    (OVERRUN, WEIGHT),
    fitted=length_posteriors,
    by_category=True,
)
