"""A learned scorer: a pointer network over the request table, as a compiled rule.

Every request is scored by the same small network from its own features and from a context pooled
over all requests present, so the weights fit any number of slots. What is trained
(`agents.networks.PointerNetwork`) is this, in torch:

    c     = mean over requests of relu(f E + e)
    h     = relu(f A + c C + s S + a)
    score = relu(h B + b) w + f v,     f: request features, s: server features

and the highest score runs first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from laps_env._jit import inlined, rule, survey
from laps_env.layout import CATEGORY, OCCUPIED, SERVER_COLUMNS
from policies.features import (
    REQUEST_FEATURES,
    SERVER_FEATURES,
    describe_request,
    describe_server,
    weights_and_laws,
)
from policies.gittins import INDEX_SIZE
from policies.laws import Floats
from policies.policy import RuleSpec

#: Width of the pooled context, of the first and of the second layer.
POOLED, FIRST, SECOND = 16, 32, 16

_REQUEST, _SERVER = len(REQUEST_FEATURES), len(SERVER_FEATURES)

#: The network's arrays in the order of `flatten`, with their shapes.
SHAPES = {
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
_SIZES = [int(np.prod(shape)) for shape in SHAPES.values()]
_STARTS = np.cumsum([0, *_SIZES]).tolist()
_E, _e, _A, _C, _S, _a, _B, _b, _w, _v, _LAWS = _STARTS

_COLUMNS = len(SERVER_COLUMNS)


@inlined
def add_product(vector: Any, params: Any, start: int, out: Any) -> None:
    """``out`` += ``vector`` times the matrix that begins at ``start``, row by row."""
    for i in range(vector.size):
        for j in range(out.size):
            out[j] += vector[i] * params[start + i * out.size + j]


@survey
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
            for j in range(POOLED):
                hidden[j] = params[_e + j]
            add_product(features, params, _E, hidden)
            for j in range(POOLED):
                pooled[j] += max(hidden[j], 0.0)
    for j in range(POOLED):
        pooled[j] /= max(present, 1)
    for j in range(FIRST):
        first[j] = params[_a + j]
    add_product(pooled, params, _C, first)
    describe_server(server, present, features)
    add_product(features[:_SERVER], params, _S, first)


@rule
def learned(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Minus the score."""
    features, first = memory[:_REQUEST], memory[_REQUEST : _REQUEST + FIRST]
    second = memory[_REQUEST + FIRST :]
    law = _LAWS + INDEX_SIZE * int(row[CATEGORY])
    describe_request(row, server, params[law : law + INDEX_SIZE], features)
    for j in range(FIRST):
        first[j] = server[_COLUMNS + j]
    add_product(features, params, _A, first)
    for j in range(FIRST):
        first[j] = max(first[j], 0.0)
    for j in range(SECOND):
        second[j] = params[_b + j]
    add_product(first, params, _B, second)
    score = 0.0
    for j in range(SECOND):
        score += max(second[j], 0.0) * params[_w + j]
    for i in range(_REQUEST):
        score += features[i] * params[_v + i]
    return -score


def flatten(arrays: dict[str, Floats]) -> Floats:
    """The network's arrays as the rule reads them.

    Raises:
        ValueError: arrays that are missing, too many, or of another shape.
    """
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if shapes != SHAPES:
        raise ValueError(f"network: expected arrays {SHAPES}, got {shapes}")
    return np.concatenate([np.asarray(arrays[name], np.float64).ravel() for name in SHAPES])


def pointer_spec(name: str, arrays: dict[str, Floats]) -> RuleSpec:
    """The rule with these weights (`flatten`)."""
    return RuleSpec(
        name,
        "learned pointer network",
        learned,
        cells=_REQUEST + FIRST + SECOND,
        survey=pool,
        context=FIRST + 2 * POOLED + _REQUEST,
        fitted=weights_and_laws(flatten(arrays)),
        by_category=True,
    )
