"""One result row: a policy in a scenario at a load, over all workloads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.evaluation.statistics import (
    gap_closed,
    iqm_with_interval,
    mean_with_interval,
    ratio_with_interval,
)

Metrics = dict[str, float]

#: Metrics of which a row gives the mean over workloads; a percentile is taken within each workload.
_MEANS = (
    "p50_latency_s",
    "p95_latency_s",
    "p99_latency_s",
    "mean_ttft_s",
    "mean_tpot_s",
    "jain_fairness",
    "throughput_rps",
    "preemptions",
    "recomputed_tokens",
)
#: Metrics of which a row gives the largest over workloads; max_idle_s is starvation, the longest
#: that any request waited for a round.
_LARGEST = ("max_slowdown", "max_idle_s")


def latencies(runs: list[Metrics]) -> npt.NDArray[np.float64]:
    """Mean latency of each workload in seconds, [n]."""
    return np.array([metrics["mean_latency_s"] for metrics in runs])


def statistics_of(
    runs: list[Metrics], reference: list[Metrics], oracle: list[Metrics]
) -> dict[str, Any]:
    """The numbers of a row from the metrics on each workload, of the policy and of both rivals.

    ``ratio_to_reference`` is of latencies summed over the workloads, ``iqm_ratio`` the
    interquartile mean of each workload's own ratio; ``gap_closed`` is None for n/a, intervals are
    None for a single workload. ``episode_mean_latency_s`` and ``episode_p99_latency_s`` have those
    of each workload in full precision.
    """
    values, base = latencies(runs), latencies(reference)
    mean, mean_interval = mean_with_interval(values)
    ratio, ratio_interval = ratio_with_interval(values, base)
    iqm, iqm_interval = iqm_with_interval(values / base)
    return {
        "mean_latency_s": mean,
        "mean_latency_ci95": mean_interval,
        "ratio_to_reference": ratio,
        "ratio_ci95": ratio_interval,
        "iqm_ratio": iqm,
        "iqm_ratio_ci95": iqm_interval,
        "gap_closed": gap_closed(values, base, latencies(oracle)),
        **{name: float(np.mean([metrics[name] for metrics in runs])) for name in _MEANS},
        **{name: max(metrics[name] for metrics in runs) for name in _LARGEST},
        "episode_mean_latency_s": values.tolist(),
        "episode_p99_latency_s": [metrics["p99_latency_s"] for metrics in runs],
    }
