"""Intervals of fitted rates: the fit again and again on resampled groups of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from laps_env.live.measure.least_squares import Floats

Rows = NDArray[np.intp]

#: Resamples of the groups.
RESAMPLES = 200

#: Blocks of consecutive samples: a machine drifts for minutes, which single samples do not show.
BLOCKS = 25

LEVEL = 0.95


def blocks_of(count: int) -> list[Rows]:
    """Blocks of consecutive samples, about equally long."""
    return np.array_split(np.arange(count), min(BLOCKS, count))


def rate_intervals(fit: Callable[[Rows], Floats], groups: Sequence[Rows]) -> Floats:
    """Bounds of each rate at `LEVEL` [rates, 2].

    Args:
        fit: Function from numbers of samples, some of them several times, to rates.
        groups: Samples that stay together.
    """
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(groups), size=(RESAMPLES, len(groups)))
    fits = [fit(np.concatenate([groups[g] for g in chosen])) for chosen in drawn]
    beyond = (1 - LEVEL) / 2
    return np.quantile(fits, (beyond, 1 - beyond), axis=0).T
