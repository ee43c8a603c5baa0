"""A learned index: a weighted sum of what is known of a request, lowest first.

Each weight is a + b log(batch size) / 4 + c misfit of the category's length law: what an order has
to look at changes when requests share rounds, and where lengths do not follow the law. They are
found by a search without derivatives on simulated workloads (`laps_env.agents.index_search`). A
weight of 1 on ``gittins`` alone is the Gittins index.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.policies.base.traffic_model import Floats
from laps_env.policies.bayes_srpt import MISFIT
from laps_env.policies.gittins import INDEX_SIZE
from laps_env.policies.networks.features import REQUEST_FEATURES, WeightsAndLaws, describe_request
from laps_env.sim.observation import BATCH_SIZE, CATEGORY
from laps_env.utils.jit import rule

_ROWS, _REQUEST = 3, len(REQUEST_FEATURES)

#: The Gittins index, everywhere.
START = np.zeros((_ROWS, _REQUEST))
START[0, [feature.name for feature in REQUEST_FEATURES].index("gittins")] = 1


@rule
def learned_index(row: Any, server: Any, params: Any, memory: Any) -> float:
    """The sum; the features are written into the request's memory."""
    first = _ROWS * _REQUEST + INDEX_SIZE * int(row[CATEGORY])
    describe_request(row, server, params[first : first + INDEX_SIZE], memory)
    batch, misfit = math.log(server[BATCH_SIZE]) / 4, params[first + MISFIT]
    total = 0.0
    for i in range(_REQUEST):
        weight = params[i] + batch * params[_REQUEST + i] + misfit * params[2 * _REQUEST + i]
        total += weight * memory[i]
    return total


def make_spec(name: str, arrays: dict[str, Floats]) -> RuleSpec:
    """The rule with these weights.

    Args:
        name: Name of the policy.
        arrays: Weights by name: ``weights`` [3, 18], a, b and c, one each per request feature.

    Raises:
        ValueError: The arrays are others.
    """
    shape = np.shape(arrays.get("weights", ()))
    if shape != (_ROWS, _REQUEST):
        raise ValueError(f"index: expected weights of shape ({_ROWS}, {_REQUEST}), got {shape}")
    weights = np.asarray(arrays["weights"], np.float64).ravel()

    return RuleSpec(
        name,
        "learned index",
        learned_index,
        cells=_REQUEST,
        fitted=WeightsAndLaws(weights),
        by_category=True,
    )
