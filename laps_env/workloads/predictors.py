"""Predicted output lengths: the truth seen through a documented error model.

A predictor is exactly as good as it says: nothing else in a workload carries the true length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from laps_env.sim.workload import LARGEST_PREDICTION, LEAST_PREDICTION
from laps_env.utils.checks import check_not_negative
from laps_env.utils.jit import jit
from laps_env.workloads.random import PREDICTION, Key, normals, uniforms

#: Words in place of an error.
ErrorName = Literal["recorded", "refreshed"]
#: The predictions that come with recorded requests.
RECORDED: Literal["recorded"] = "recorded"
#: The predictions that there are without this word, and refreshes of them while a request runs.
REFRESHED: Literal["refreshed"] = "refreshed"

Tokens = npt.NDArray[np.float64]


@runtime_checkable
class LengthPredictor(Protocol):
    """Anything that turns true output lengths [R] into predictions [R], both in tokens."""

    def predict(self, key: Key, episode: int, output_tokens: npt.NDArray[np.int64]) -> Tokens:
        """Predictions [R] in tokens, float64 in 2**-24 .. 2**24."""


@dataclass(frozen=True)
class LogNormalPredictor:
    """Log-normal error: prediction = truth * exp(sd * z), z standard normal.

    Attributes:
        sd: Standard deviation of log(prediction / truth), >= 0; 0 is the truth.
    """

    sd: float

    def __post_init__(self) -> None:
        check_not_negative("predictor error", self.sd)

    def predict(self, key: Key, episode: int, output_tokens: npt.NDArray[np.int64]) -> Tokens:
        """Predictions [R] in tokens, 2**-24 .. 2**24."""
        noise = np.empty(output_tokens.size)
        _draw_noise(key, episode, noise)
        with np.errstate(over="ignore"):
            return np.clip(
                output_tokens * np.exp(self.sd * noise), LEAST_PREDICTION, LARGEST_PREDICTION
            )


@dataclass(frozen=True)
class BucketPredictor:
    """A classifier over length buckets that is right with probability ``accuracy``.

    When wrong it names a neighbouring bucket (either side alike). The prediction is the bucket's
    geometric middle; lengths below the first edge or above the last count as in the end buckets.

    Attributes:
        edges: Increasing token counts, at least 2, the first >= 1.
        accuracy: Probability of the right bucket, 0..1.
    """

    edges: tuple[float, ...]
    accuracy: float

    def __post_init__(self) -> None:
        edges = np.asarray(self.edges, float)
        if edges.size < 2 or edges[0] < 1 or not (np.diff(edges) > 0).all():
            raise ValueError(f"edges: expected >= 2 increasing numbers >= 1, got {self.edges!r}")
        if not 0 <= self.accuracy <= 1:
            raise ValueError(f"accuracy: expected 0..1, got {self.accuracy!r}")

    def predict(self, key: Key, episode: int, output_tokens: npt.NDArray[np.int64]) -> Tokens:
        """Predictions [R] in tokens, one of the buckets' geometric middles."""
        edges = np.asarray(self.edges, float)
        last = edges.size - 2
        right = np.clip(np.searchsorted(edges, output_tokens, side="right") - 1, 0, last)
        hit, side = np.empty(right.size), np.empty(right.size)
        _draw_uniforms(key, episode, hit, side)
        neighbour = np.where(side < 0.5, right - 1, right + 1)
        neighbour = np.where(neighbour < 0, 1, np.where(neighbour > last, last - 1, neighbour))
        bucket = np.where(hit < self.accuracy, right, np.clip(neighbour, 0, last))
        return np.asarray(np.sqrt(edges[bucket] * edges[bucket + 1]))


#: How far predicted lengths are off: the sd of log(predicted / true), a predictor of its own,
#: `RECORDED`, `REFRESHED`, or None: recorded where there are recorded ones, else the default sd.
PredictorError = float | LengthPredictor | ErrorName | None


def make_predictor(error: float | LengthPredictor) -> LengthPredictor:
    """Predictor of an error: a number is that of a `LogNormalPredictor`, a predictor is itself.

    Raises:
        ValueError: It is neither, or a number that is negative or not finite.
    """
    if isinstance(error, LengthPredictor):
        return error
    return LogNormalPredictor(error)


@jit
def _draw_noise(key: Key, episode: int, noise: npt.NDArray[np.float64]) -> None:
    for i in range(noise.size):
        noise[i], _ = normals(key, PREDICTION, episode, i, 0)


@jit
def _draw_uniforms(key: Key, episode: int, first: Tokens, second: Tokens) -> None:
    for i in range(first.size):
        first[i], second[i] = uniforms(key, PREDICTION, episode, i, 0)
