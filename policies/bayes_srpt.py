"""Bayes SRPT: the prediction combined with the category's length law.

Given the prediction, log L is normal (`laps_env.policies.base.traffic_model.TrafficModel`, fitted
on the training split): for log L ~ Normal(m_c, t_c^2) in category c and a prediction that is
log-normal around L, that is the posterior with the usual weights. The expected length is its
log-normal mean, and remaining rounds = (expected length - generated) / tokens per round shrunk to
the category's mean.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from laps_env.policies.base.remaining import OVERRUN, remaining_tokens, shrunk_tokens_per_round
from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.policies.base.traffic_model import Floats, TrafficModel
from laps_env.policies.category_shrunk import WEIGHT
from laps_env.sim.observation import CATEGORY, PREDICTED_TOKENS
from laps_env.utils.jit import inlined, rule

_FITTED = 2
#: Fitted constants of a category: tokens per round; weight, offset, variance, misfit of log L.
LAW_SIZE = 5
MISFIT = 4


@inlined
def posterior_log_length(row: Any, law: Any) -> float:
    """Posterior mean of log L; ``law`` is a category's constants (`length_posteriors`)."""
    return law[1] * math.log(row[PREDICTED_TOKENS]) + law[2]


@rule
def bayes_srpt(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Expected remaining rounds; memory keeps the expected length, which never changes."""
    first = _FITTED + LAW_SIZE * int(row[CATEGORY])
    law = params[first : first + LAW_SIZE]
    if memory[0] == 0:
        memory[0] = math.exp(posterior_log_length(row, law) + law[3] / 2)
    speed = shrunk_tokens_per_round(row, law[0], params[1])
    return remaining_tokens(row, memory[0], params[0]) / speed


def length_posteriors(traffic: TrafficModel) -> Floats:
    """The constants of all categories, flat."""
    table = [
        traffic.tokens_per_round,
        traffic.weight,
        traffic.offset,
        traffic.variance,
        traffic.misfit,
    ]
    return np.stack(table, axis=1).ravel()


SPEC = RuleSpec(
    "bayes_srpt",
    "expected remaining rounds under the length law",
    bayes_srpt,
    (OVERRUN, WEIGHT),
    fitted=length_posteriors,
    by_category=True,
)
