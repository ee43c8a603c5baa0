"""A learned index: a weighted sum of what is known of a request, lowest first.

Each weight is a + b log(batch size) / 4: what an order has to look at changes when requests share
rounds. They are found by a search without derivatives on simulated workloads
(`agents.index_search`). A weight of 1 on ``gittins`` alone is the Gittins index.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from laps_env._jit import rule
from laps_env.layout import BATCH_SIZE, CATEGORY
from policies.features import REQUEST_FEATURES, describe_request, weights_and_laws
from policies.gittins import INDEX_SIZE
from policies.laws import Floats
from policies.policy import RuleSpec

_REQUEST = len(REQUEST_FEATURES)


@rule
def learned_index(row: Any, server: Any, params: Any, memory: Any) -> float:
    """The sum; the features are written into the request's memory."""
    first = 2 * _REQUEST + INDEX_SIZE * int(row[CATEGORY])
    describe_request(row, server, params[first : first + INDEX_SIZE], memory)
    batch = math.log(server[BATCH_SIZE]) / 4
    total = 0.0
    for i in range(_REQUEST):
        total += (params[i] + batch * params[_REQUEST + i]) * memory[i]
    return total


def index_spec(name: str, arrays: dict[str, Floats]) -> RuleSpec:
    """The rule with these weights.

    Args:
        name: of the policy.
        arrays: ``weights`` [2, 17]: a and b, one each per request feature.

    Raises:
        ValueError: other arrays.
    """
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if shapes != {"weights": (2, _REQUEST)}:
        raise ValueError(f"index: expected weights of shape (2, {_REQUEST}), got {shapes}")
    weights = np.asarray(arrays["weights"], np.float64).ravel()

    return RuleSpec(
        name,
        "learned index",
        learned_index,
        cells=_REQUEST,
        fitted=weights_and_laws(weights),
        by_category=True,
    )
