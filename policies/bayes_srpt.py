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

import numpy as np

from laps_env.policies.base.remaining import OVERRUN, remaining_tokens, shrunk_tokens_per_round
from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.policies.base.traffic_model import Floats, TrafficModel, with_rests
from laps_env.policies.category_shrunk import WEIGHT
from laps_env.sim.observation import CATEGORY, GENERATED_TOKENS, PREDICTED_TOKENS
from laps_env.utils.jit import inlined, rule

_FITTED = 2
#: Constants of a law: tokens per round; weight, offset, variance, misfit of the log of what is left
#: when a prediction is told; tokens between refreshes, 0 for none.
LAW_SIZE = 6
MISFIT, EVERY = 4, 5
_SIZE = 2 * LAW_SIZE


@inlined
def told_at(row: Any, law: Any) -> Any:
    """Tokens that a request had generated when its latest prediction was told, float32."""
    if law[EVERY] == 0:
        return np.float32(0.0)
    return np.float32(row[GENERATED_TOKENS] // law[EVERY] * law[EVERY])


@inlined
def law_in_force(row: Any, laws: Any) -> int:
    """Where the latest prediction's law begins among a category's two, of lengths and of rests."""
    return laws.size // 2 if told_at(row, laws) > 0 else 0


@inlined
def posterior_log_rest(row: Any, law: Any) -> float:
    """Posterior mean of the log of what was left when the prediction was told; L at arrival."""
    told = told_at(row, law)
    rest = row[PREDICTED_TOKENS] - told
    if told > 0:
        rest = max(rest, np.float32(1.0))  # may be of another server than the law
    return law[1] * math.log(rest) + law[2]


@rule
def bayes_srpt(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Expected remaining rounds."""
    first = _FITTED + _SIZE * int(row[CATEGORY])
    laws = params[first : first + _SIZE]
    law = laws[law_in_force(row, laws) :]
    told = told_at(row, law)
    length = told + math.exp(posterior_log_rest(row, law) + law[3] / 2)
    speed = shrunk_tokens_per_round(row, law[0], params[1])
    return remaining_tokens(row, length, params[0] * (row[GENERATED_TOKENS] - told)) / speed


def length_posteriors(traffic: TrafficModel) -> Floats:
    """Both laws of all categories, flat."""
    return with_rests(traffic, law_constants)


def law_constants(traffic: TrafficModel) -> Floats:
    """Constants of each category's law [C, LAW_SIZE]."""
    table = [
        traffic.tokens_per_round,
        traffic.weight,
        traffic.offset,
        traffic.variance,
        traffic.misfit,
        np.full_like(traffic.misfit, traffic.refresh_every),
    ]
    return np.stack(table, axis=1)


SPEC = RuleSpec(
    "bayes_srpt",
    "expected remaining rounds under the length law",
    bayes_srpt,
    (OVERRUN, WEIGHT),
    fitted=length_posteriors,
    by_category=True,
)
