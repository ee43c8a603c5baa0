"""The learned scorer with attention: each request looks at the others by itself.

As `laps_env.policies.networks.pointer`, but instead of one mean for all, the context of a request
is

    c = softmax over requests (f Q + q) K'f' / sqrt(d)) relu(f' E + e),     f': the others' features

in `HEADS` heads of width d, its own features among the others'.
"""

from __future__ import annotations

import math
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
from laps_env.policies.networks.layers import Shapes, add_product, flatten, layer, rectify, starts
from laps_env.policies.networks.pointer import FIRST, POOLED, SECOND, score
from laps_env.policies.networks.pointer import SHAPES as POINTER_SHAPES
from laps_env.sim.observation import CATEGORY, OCCUPIED, SERVER_COLUMNS
from laps_env.utils.jit import inlined, prepare, rule

HEADS = 4

_REQUEST, _SERVER = len(REQUEST_FEATURES), len(SERVER_FEATURES)

#: The arrays of the pointer network, where it has them, and those of the attention.
SHAPES: Shapes = POINTER_SHAPES | {"Q": (_REQUEST, POOLED), "q": (POOLED,), "K": (_REQUEST, POOLED)}
_E, _e, _, _C, _S, _a, _, _, _, _, _Q, _q, _K, _LAWS = starts(SHAPES)

_COLUMNS, _WIDTH = len(SERVER_COLUMNS), POOLED // HEADS
#: Cells before those of the requests: first layer, features, how many requests there are.
_SHARED = FIRST + _REQUEST + 1


@prepare
def remember(queue: Any, server: Any, params: Any) -> None:
    """Keys and values of the requests, and what the first layer gets from the server."""
    cells = server[_COLUMNS:]
    first, features = cells[:FIRST], cells[FIRST : FIRST + _REQUEST]
    others, present = cells[_SHARED:], 0
    for k in range(queue.shape[0]):
        row = queue[k]
        if row[OCCUPIED] == 1:
            law = _LAWS + INDEX_SIZE * int(row[CATEGORY])
            describe_request(row, server, params[law : law + INDEX_SIZE], features)
            own = others[2 * POOLED * present : 2 * POOLED * (present + 1)]
            key, value = own[:POOLED], own[POOLED:]
            key[:] = 0.0
            add_product(features, params, _K, key)
            layer(features, params, _E, _e, value)
            rectify(value)
            present += 1
    cells[_SHARED - 1] = present
    describe_server(server, present, features)
    layer(features[:_SERVER], params, _S, _a, first)


@inlined
def attend(query: Any, others: Any, present: int, context: Any) -> None:
    """Mean of the values, weighted by how keys answer the query, head by head, in one pass."""
    context[:] = 0.0
    for head in range(HEADS):
        begin = head * _WIDTH
        highest, total = -np.inf, 0.0
        for k in range(present):
            key = 2 * POOLED * k + begin
            answer = 0.0
            for j in range(_WIDTH):
                answer += query[begin + j] * others[key + j]
            answer /= math.sqrt(_WIDTH)
            if answer > highest:
                shrunk = math.exp(highest - answer)
                total *= shrunk
                for j in range(_WIDTH):
                    context[begin + j] *= shrunk
                highest = answer
            weight = math.exp(answer - highest)
            total += weight
            for j in range(_WIDTH):
                context[begin + j] += weight * others[key + POOLED + j]
        for j in range(_WIDTH):
            context[begin + j] /= total


@rule
def attention(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Minus the score."""
    features, first = memory[:_REQUEST], memory[_REQUEST : _REQUEST + FIRST]
    rest = memory[_REQUEST + FIRST :]
    second, query = rest[:SECOND], rest[SECOND : SECOND + POOLED]
    context = rest[SECOND + POOLED :]
    law = _LAWS + INDEX_SIZE * int(row[CATEGORY])
    describe_request(row, server, params[law : law + INDEX_SIZE], features)
    layer(features, params, _Q, _q, query)
    cells = server[_COLUMNS:]
    attend(query, cells[_SHARED:], int(cells[_SHARED - 1]), context)
    for j in range(FIRST):
        first[j] = cells[j]
    add_product(context, params, _C, first)
    return -score(features, first, second, params)


def make_spec(name: str, arrays: dict[str, Floats]) -> RuleSpec:
    """The rule with these weights.

    Raises:
        ValueError: The arrays are others than `SHAPES` says.
    """
    return RuleSpec(
        name,
        "learned network with attention",
        attention,
        cells=_REQUEST + FIRST + SECOND + 2 * POOLED,
        prepare=remember,
        shared=_SHARED,
        shared_per_slot=2 * POOLED,
        fitted=WeightsAndLaws(flatten(arrays, SHAPES)),
        by_category=True,
    )
