"""The gaps of streams, counted in bins that are as fine as a gap is long.

A gap is the time from one delivery of tokens to a request to its next: what `vllm bench serve`
calls inter-token latency. A bin is a 32nd of an octave of nanoseconds, so that its middle is within
1.6 % of every gap in it, and all gaps of an episode fit in a few kilobytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.utils.jit import inlined

#: Bins of an octave, as a power of two; gaps go up to 2**50 ns, thirteen days.
_FRACTION_BITS = 5
BINS = 50 << _FRACTION_BITS
#: Bits of a float64 that are dropped, and where the exponent of 1 leaves the rest.
_DROPPED = 52 - _FRACTION_BITS
_ONE = 1023 << _FRACTION_BITS


@inlined
def count_gap(gaps: npt.NDArray[np.int32], gap_ns: int) -> None:
    """Count a gap of at least 1 ns: the top bits of a float64 are its logarithm."""
    place: Any = (np.float64(gap_ns).view(np.int64) >> _DROPPED) - _ONE
    gaps[min(place, BINS - 1)] += 1


def gap_quantile_s(gaps: npt.NDArray[Any], share: float) -> float:
    """The gap in seconds that this share of all does not exceed, NaN where there are none.

    Args:
        gaps: Counts by bin, [BINS].
        share: Share of the gaps, 0 .. 1.
    """
    total = int(gaps.sum())
    if total == 0:
        return np.nan
    place = int(np.searchsorted(np.cumsum(gaps), max(share * total, 1)))
    edges = (np.array([place, place + 1]) + _ONE << _DROPPED).view(np.float64)
    return float(edges.mean()) * 1e-9
