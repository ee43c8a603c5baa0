"""Traffic that changes while it is served: shifts of mix, lengths, acceptance and rate.

Each shift is a stationary process of Ornstein and Uhlenbeck along the requests' numbers, normal,
forgotten after `Drift.span` requests, of its own for every category; it is drawn from the
workload's address, so no two workloads meet the same, and none depends on actions. A length
predictor was fitted before and does not see it: its predictions are those of the lengths without
the shift.

The scenarios' sizes were measured before anything was tuned on them (docs/scenarios.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from laps_env.utils.checks import check_not_negative, check_positive
from laps_env.utils.jit import jit
from laps_env.workloads.random import DRIFT, Key, normals

Floats = npt.NDArray[np.float64]


class Shifts(NamedTuple):
    """Shifts of R requests, of each of C categories where they are of a category."""

    mix: Floats  # [R, C] of the log of a category's share
    length: Floats  # [R, C] of log output tokens, unknown to the predictor
    acceptance: Floats  # [R, C] of logit(alpha)
    gap: Floats  # [R] factor of the gap before a request, of mean 1


@dataclass(frozen=True)
class Drift:
    """How much traffic changes, and how fast.

    Attributes:
        span: Requests after which a shift is forgotten to 1 / e, > 0.
        mix: Standard deviation of the log of a category's share, >= 0.
        length: Likewise of the log of its output tokens.
        acceptance: Likewise of logit(alpha).
        rate: Likewise of the log of the arrival rate.

    Raises:
        ValueError: A number out of range.
    """

    span: float
    mix: float = 0.0
    length: float = 0.0
    acceptance: float = 0.0
    rate: float = 0.0

    def __post_init__(self) -> None:
        check_positive("span", self.span)
        for f in fields(self)[1:]:
            check_not_negative(f.name, getattr(self, f.name))

    def draw(self, key: Key, episode: int, count: int, categories: int) -> Shifts:
        """Shifts of the requests of a workload."""
        paths = np.empty((3 * categories + 1, count))
        _draw_paths(key, episode, math.exp(-1.0 / self.span), paths)
        mix, length, acceptance = paths[:-1].reshape(3, categories, count).transpose(0, 2, 1)
        # a gap is 1 / rate: the mean of that is kept
        gap = np.exp(-self.rate * paths[-1] - self.rate**2 / 2)
        return Shifts(self.mix * mix, self.length * length, self.acceptance * acceptance, gap)


@jit
def _draw_paths(key: Key, episode: int, kept: float, paths: Floats) -> None:
    """Stationary paths [P, R] of variance 1 that keep this share from request to request."""
    fresh = math.sqrt(1.0 - kept * kept)
    for k in range(paths.shape[0]):
        paths[k, 0], _ = normals(key, DRIFT, episode, 0, k)
        for i in range(1, paths.shape[1]):
            step, _ = normals(key, DRIFT, episode, i, k)
            paths[k, i] = kept * paths[k, i - 1] + fresh * step
