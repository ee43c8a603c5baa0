"""What a category's laws say of a request: of its length, and once refreshed of what is left."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from laps_env.policies.base.traffic_model import Floats, TrafficModel, with_rests
from laps_env.sim.observation import GENERATED_TOKENS, PREDICTED_TOKENS
from laps_env.utils.jit import inlined

#: Constants of a law: tokens per round; weight, offset, variance, misfit of the log of what is left
#: when a prediction is told; tokens between refreshes, 0 for none.
LAW_SIZE = 6
SPEED, PREDICTION, OFFSET, VARIANCE, MISFIT, EVERY = range(6)


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
