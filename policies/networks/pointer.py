"""A learned scorer: a pointer network over the request table, as a compiled rule.

Every request is scored by the same small network from its own features and from a context pooled
over all requests present, so the weights fit any number of slots. What is trained
(`laps_env.agents.networks.PointerNetwork`) is this, in torch:

    c     = mean over requests of relu(f E + e)
    h     = relu(f A + c C + s S + a)
    score = relu(h B + b) w + f v,     f: request features, s: server features

and the highest score runs first.
"""

from __future__ import annotations

from typing import Any

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
from laps_env.sim.observation import CATEGORY, OCCUPIED, SERVER_COLUMNS
from laps_env.utils.jit import inlined, prepare, rule

#: Width of the pooled context, of the first and of the second layer.
POOLED, FIRST, SECOND = 16, 32, 16

_REQUEST, _SERVER = len(REQUEST_FEATURES), len(SERVER_FEATURES)

#: The network's arrays in the order of `laps_env.policies.networks.layers.flatten`, with their
#: shapes.
SHAPES: Shapes = {
    "E": (_REQUEST, POOLED),
    "e": (POOLED,),
    "A": (_REQUEST, FIRST),
    "C": (POOLED, FIRST),
    "S": (_SERVER, FIRST),
    "a": (FIRST,),
    "B": (FIRST, SECOND),
    "b": (SECOND,),
    "w": (SECOND,),
    "v": (_REQUEST,),
}
_E, _e, _A, _C, _S, _a, _B, _b, _w, _v, _LAWS = starts(SHAPES)

_COLUMNS = len(SERVER_COLUMNS)


@prepare
def pool(queue: Any, server: Any, params: Any) -> None:
    """What the first layer gets from context and server: ``c C + s S + a``."""
    cells = server[_COLUMNS:]
    first, pooled = cells[:FIRST], cells[FIRST : FIRST + POOLED]
    hidden = cells[FIRST + POOLED : FIRST + 2 * POOLED]
    features = cells[FIRST + 2 * POOLED :]
    pooled[:] = 0.0
    present = 0
    for k in range(queue.shape[0]):
        row = queue[k]
        if row[OCCUPIED] == 1:
            present += 1
            law = _LAWS + INDEX_SIZE * int(row[CATEGORY])
            describe_request(row, server, params[law : law + INDEX_SIZE], features)
            layer(features, params, _E, _e, hidden)
            rectify(hidden)
            for j in range(POOLED):
                pooled[j] += hidden[j]
    for j in range(POOLED):
        pooled[j] /= max(present, 1)
    layer(pooled, params, _C, _a, first)
    describe_server(server, present, features)
    add_product(features[:_SERVER], params, _S, first)


@inlined
def score(features: Any, first: Any, second: Any, params: Any) -> float:
    """Score of a request; ``first`` holds what the first layer gets but from ``features``."""
    add_product(features, params, _A, first)
    rectify(first)
    layer(first, params, _B, _b, second)
    rectify(second)
    total = 0.0
    for j in range(SECOND):
        total += second[j] * params[_w + j]
    for i in range(_REQUEST):
        total += features[i] * params[_v + i]
    return total


@rule
def learned(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Minus the score."""
    features, first = memory[:_REQUEST], memory[_REQUEST : _REQUEST + FIRST]
    law = _LAWS + INDEX_SIZE * int(row[CATEGORY])
    describe_request(row, server, params[law : law + INDEX_SIZE], features)
    for j in range(FIRST):
        first[j] = server[_COLUMNS + j]
    return -score(features, first, memory[_REQUEST + FIRST :], params)


def make_spec(name: str, arrays: dict[str, Floats]) -> RuleSpec:
    """The rule with these weights.

    Raises:
        ValueError: The arrays are others than `SHAPES` says.
    """
    return RuleSpec(
        name,
        "learned pointer network",
        learned,
        cells=_REQUEST + FIRST + SECOND,
        prepare=pool,
        shared=FIRST + 2 * POOLED + _REQUEST,
        fitted=WeightsAndLaws(flatten(arrays, SHAPES)),
        by_category=True,
    )
