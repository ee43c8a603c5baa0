"""A learned index: a weighted sum of what is known of a request, lowest first.

The weights are found by a search without derivatives on simulated workloads
(`agents.index_search`). A weight of 1 on ``bayes`` alone is Bayes SRPT.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from laps_env._jit import rule
from laps_env.layout import CATEGORY
from policies.bayes_srpt import length_posteriors
from policies.features import REQUEST_FEATURES, describe_request
from policies.laws import Floats, Laws
from policies.policy import RuleSpec

_REQUEST = len(REQUEST_FEATURES)
_PER_CATEGORY = 4


@rule
def learned_index(row: Any, server: Any, params: Any, memory: Any) -> float:
    """The sum; the features are written into the request's memory."""
    first = _REQUEST + _PER_CATEGORY * int(row[CATEGORY])
    describe_request(row, server, params[first : first + _PER_CATEGORY], memory)
    total = 0.0
    for i in range(_REQUEST):
        total += params[i] * memory[i]
    return total


def index_spec(name: str, arrays: dict[str, Floats]) -> RuleSpec:
    """The rule with these weights.

    Args:
        name: of the policy.
        arrays: ``weights`` [16], one per request feature.

    Raises:
        ValueError: other arrays.
    """
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if shapes != {"weights": (_REQUEST,)}:
        raise ValueError(f"index: expected weights of shape ({_REQUEST},), got {shapes}")
    weights = np.asarray(arrays["weights"], np.float64)

    def constants(laws: Laws) -> Floats:
        return np.concatenate([weights, length_posteriors(laws)])

    return RuleSpec(
        name,
        "learned index",
        learned_index,
        cells=_REQUEST,
        fitted=constants,
        by_category=True,
    )
