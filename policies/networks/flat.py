"""The learned scorer without sharing: one network over all slots side by side, an ablation.

    h      = relu(sum over slots k of f_k A_k + s S + a)
    scores = relu(h B + b) W + w,     one for each slot

It serves tables of as many slots as it was trained on, no others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.policies.base.traffic_model import Floats
from laps_env.policies.gittins import INDEX_SIZE
from laps_env.policies.networks.features import (
    REQUEST_FEATURES,
    SERVER_FEATURES,
    WeightsAndLaws,
    describe_request,
    describe_server,
)
from laps_env.policies.networks.layers import Shapes, add_product, flatten, layer, rectify
from laps_env.sim.observation import ARRIVAL_NUMBER, CATEGORY, OCCUPIED, SERVER_COLUMNS
from laps_env.utils.jit import prepare, rule

#: Width of the first and of the second layer.
FIRST, SECOND = 128, 64

_REQUEST, _SERVER = len(REQUEST_FEATURES), len(SERVER_FEATURES)
_COLUMNS = len(SERVER_COLUMNS)
_SHARED = FIRST + SECOND + _REQUEST


def shapes(slots: int) -> Shapes:
    """The arrays of a network for so many slots."""
    return {
        "A": (slots * _REQUEST, FIRST),
        "S": (_SERVER, FIRST),
        "a": (FIRST,),
        "B": (FIRST, SECOND),
        "b": (SECOND,),
        "W": (SECOND, slots),
        "w": (slots,),
    }


@prepare
def score_all(queue: Any, server: Any, params: Any) -> None:
    """The scores of all slots, then the arrival numbers of their requests."""
    slots = queue.shape[0]
    s = slots * _REQUEST * FIRST  # where each array begins, as `shapes` has them
    a = s + _SERVER * FIRST
    B = a + FIRST
    b = B + FIRST * SECOND
    W = b + SECOND
    w = W + SECOND * slots
    laws = w + slots
    cells = server[_COLUMNS:]
    first, second = cells[:FIRST], cells[FIRST : FIRST + SECOND]
    features, found = cells[FIRST + SECOND : _SHARED], cells[_SHARED:]
    present = 0
    for j in range(FIRST):
        first[j] = params[a + j]
    for k in range(slots):
        row = queue[k]
        found[slots + k] = -1.0
        if row[OCCUPIED] == 1:
            present += 1
            law = laws + INDEX_SIZE * int(row[CATEGORY])
            describe_request(row, server, params[law : law + INDEX_SIZE], features)
            add_product(features, params, k * _REQUEST * FIRST, first)
            found[slots + k] = row[ARRIVAL_NUMBER]
    describe_server(server, present, features)
    add_product(features[:_SERVER], params, s, first)
    rectify(first)
    layer(first, params, B, b, second)
    rectify(second)
    layer(second, params, W, w, found[:slots])


@rule
def flat(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Minus the score of the slot that has this request."""
    found = server[_COLUMNS + _SHARED :]
    slots = found.size // 2
    for k in range(slots):
        if found[slots + k] == row[ARRIVAL_NUMBER]:
            return -found[k]
    return np.inf


def make_spec(name: str, arrays: dict[str, Floats]) -> RuleSpec:
    """The rule with these weights.

    Raises:
        ValueError: The arrays are others than `shapes` says.
    """
    slots = np.size(arrays.get("w", ()))
    return RuleSpec(
        name,
        "learned network without sharing",
        flat,
        prepare=score_all,
        shared=_SHARED,
        shared_per_slot=2,
        slots=slots,
        fitted=WeightsAndLaws(flatten(arrays, shapes(slots))),
        by_category=True,
    )
