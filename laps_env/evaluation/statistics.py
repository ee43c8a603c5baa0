"""Statistics over shared workloads: every interval is a bootstrap over workloads.

Policies meet the same workloads, so a resample takes the same workloads for all of them (paired).
The resamples are drawn once, from a fixed seed: the same numbers always give the same interval.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Bounds of a 95 % interval, or None for a single workload, from which none can be had.
Interval = tuple[float, float] | None

#: Bootstrap resamples of an interval, and the seed they are drawn from.
RESAMPLES = 10_000
RESAMPLING_SEED = 2505_17074

#: Quantiles of the resamples that bound an interval.
BOUNDS = (0.025, 0.975)

#: Share of the reference's latency that a clairvoyant must save before shares of it mean anything.
SMALLEST_GAP = 0.03


@cache
def resampled_workloads(count: int) -> npt.NDArray[np.int64]:
    """Which workloads each resample takes: int64 [RESAMPLES, count], 0..count - 1."""
    rng = np.random.default_rng(RESAMPLING_SEED)
    chosen = rng.integers(count, size=(RESAMPLES, count))
    chosen.flags.writeable = False
    return chosen


def _interval(resampled: Floats, count: int) -> Interval:
    if count < 2:
        return None
    low, high = (float(bound) for bound in np.quantile(resampled, BOUNDS))
    return low, high


def mean_with_interval(values: Floats) -> tuple[float, Interval]:
    """The mean of one value per workload [n], with its interval."""
    means = values[resampled_workloads(values.size)].mean(axis=1)
    return float(values.mean()), _interval(means, values.size)


def ratio_with_interval(values: Floats, reference: Floats) -> tuple[float, Interval]:
    """Ratio of the sums of two values per shared workload [n], with its paired interval.

    With mean latencies of equally many requests it is the ratio of the summed latencies.

    Raises:
        ValueError: The two were not measured on equally many workloads.
    """
    _check_paired(values, reference)
    chosen = resampled_workloads(values.size)
    ratios = values[chosen].sum(axis=1) / reference[chosen].sum(axis=1)
    return float(values.sum() / reference.sum()), _interval(ratios, values.size)


def nested_ratio_with_interval(values: Floats, reference: Floats) -> tuple[float, Interval]:
    """Ratio over several training seeds, of which resamples are taken as of workloads.

    Args:
        values: Values of each seed's model on each workload, [S, n].
        reference: Values of the reference on the same workloads, [n].

    Returns:
        The ratio of the sums over seeds and workloads; the interval holds the noise of training and
        of the traffic, and is None for a single seed or workload.

    Raises:
        ValueError: The two were not measured on equally many workloads.
    """
    seeds, count = values.shape
    _check_paired(values[0], reference)
    # how often each resample takes a seed and a workload: sums without a copy of the values
    rng = np.random.default_rng(RESAMPLING_SEED)
    taken_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    taken = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)
    sums = np.einsum("rs,sn,rn->r", taken_seeds, values, taken, optimize=True) / seeds
    ratios = sums / (taken @ reference)
    ratio = float(values.mean(axis=0).sum() / reference.sum())
    return ratio, _interval(ratios, min(seeds, count))


@cache
def _times_taken(count: int) -> Floats:
    """How often a workload is taken, as measured and in each resample, [1 + RESAMPLES, n]."""
    taken = np.ones((1 + RESAMPLES, count))
    for resample, chosen in zip(taken[1:], resampled_workloads(count), strict=True):
        resample[:] = np.bincount(chosen, minlength=count)
    return taken


def log_levels(values: list[Floats]) -> Floats:
    """Log of the mean over workloads, averaged over places, as measured and in each resample.

    The difference of two policies' levels on the same workloads is the log of the geometric mean of
    their ratios (`ratio_of_levels`).

    Args:
        values: Values of each place, one per workload, [n] each.

    Returns:
        Levels, [1 + RESAMPLES].
    """
    logs = [np.log(_times_taken(place.size) @ place / place.size) for place in values]
    return np.asarray(np.mean(logs, axis=0))


def ratio_of_levels(levels: Floats, other: Floats, count: int) -> tuple[float, Interval]:
    """Ratio of two levels (`log_levels`) over at least so many workloads, with its interval."""
    ratios = np.exp(levels - other)
    return float(ratios[0]), _interval(ratios[1:], count)


def side_of_one(interval: tuple[float, float]) -> int:
    """Where the interval of a ratio is: -1 below 1, 0 around it, 1 above."""
    low, high = interval
    return -1 if high < 1 else int(low > 1)


def iqm_with_interval(values: Floats) -> tuple[float, Interval]:
    """Interquartile mean of one value per workload [n], with its interval.

    The mean of what is left when a quarter of the values, rounded down, is cut from either end
    (Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", 2021).
    """
    iqms = _interquartile_mean(values[resampled_workloads(values.size)])
    return float(_interquartile_mean(values)), _interval(iqms, values.size)


def _interquartile_mean(values: Floats) -> Floats:
    """Over the last axis."""
    count = values.shape[-1]
    cut = count // 4
    return np.asarray(np.sort(values, axis=-1)[..., cut : count - cut].mean(axis=-1))


def gap_closed(values: Floats, reference: Floats, oracle: Floats) -> float | None:
    """Share of the way to the clairvoyant: (reference - policy) / (reference - oracle).

    Args:
        values: Mean latencies of the policy, [n] workloads.
        reference: Mean latencies of the reference on the same workloads.
        oracle: Mean latencies of the clairvoyant on the same workloads.

    Returns:
        None where the share would be noise: reference - oracle is under `SMALLEST_GAP` of the
        reference, or its interval reaches 0, or there is no interval. Outside the serial server
        with free pre-emption the oracle is a reference, not a bound, and the share may exceed 1.
    """
    _check_paired(values, reference)
    gap, interval = mean_with_interval(reference - oracle)
    if interval is None or interval[0] <= 0 or gap < SMALLEST_GAP * reference.mean():
        return None
    return float((reference - values).mean() / gap)


def _check_paired(values: Floats, reference: Floats) -> None:
    if values.shape != reference.shape:
        raise ValueError(
            f"expected the same workloads for both, got {values.shape} and {reference.shape}"
        )
