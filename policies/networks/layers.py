"""What the learned networks are made of: layers over one flat array of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from laps_env.policies.base.traffic_model import Floats
from laps_env.utils.jit import inlined

Shapes = dict[str, tuple[int, ...]]


@inlined
def add_product(vector: Any, params: Any, weights: int, out: Any) -> None:
    """``out`` += ``vector`` times the matrix that begins at ``weights``, row by row."""
    for i in range(vector.size):
        for j in range(out.size):
            out[j] += vector[i] * params[weights + i * out.size + j]


@inlined
def layer(vector: Any, params: Any, weights: int, bias: int, out: Any) -> None:
    """``out`` = ``vector`` times the matrix that begins at ``weights``, plus a bias."""
    for j in range(out.size):
        out[j] = params[bias + j]
    add_product(vector, params, weights, out)


@inlined
def rectify(vector: Any) -> None:
    """Negative numbers become 0."""
    for j in range(vector.size):
        vector[j] = max(vector[j], 0.0)


def starts(shapes: Shapes) -> list[int]:
    """Where each array begins in `flatten`, and where they all end."""
    return np.cumsum([0, *(int(np.prod(shape)) for shape in shapes.values())]).tolist()


def flatten(arrays: Mapping[str, Floats], shapes: Shapes) -> Floats:
    """Arrays behind each other, in the order of ``shapes``, as the rules read them.

    Raises:
        ValueError: Arrays are missing, too many, or of another shape.
    """
    found = {name: np.shape(array) for name, array in arrays.items()}
    if found != shapes:
        raise ValueError(f"network: expected arrays {shapes}, got {found}")
    return np.concatenate([np.asarray(arrays[name], np.float64).ravel() for name in shapes])
