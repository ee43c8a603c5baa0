"""Numbers of a results row, from the metrics on each workload."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from laps_env.evaluation.statistics import (
    Interval,
    gap_closed,
    iqm_with_interval,
    mean_with_interval,
    ratio_with_interval,
)
from laps_env.sim.metrics import OF_CATEGORY, PERCENTILES

Metrics = dict[str, float | None]
"""Metrics of a policy on one workload (`laps_env.sim.metrics.summarize`), and what the workload
brings (``load_realised``); None stands for "no data"."""

#: Metrics of which a row gives the mean over the workloads that have data; a percentile is taken
#: within each workload.
_MEANS = (
    *(f"p{q}_latency_s" for q in PERCENTILES),
    *(f"{word}_{name}" for name in ("ttft_s", "tpot_s") for word in ("mean", "p50", "p90", "p99")),
    "p99_itl_s",
    "slo_attainment",
    "goodput_rps",
    "jain_fairness",
    "throughput_rps",
    "throughput_tps",
    "preemptions",
    "recomputed_tokens",
    "contended_share",
)
#: Metrics of which a row gives the largest over workloads; max_idle_s is starvation, the longest
#: that any request waited for a round.
_LARGEST = ("max_slowdown", "max_idle_s", "longest_stall_s")

_Positive = Annotated[float, Meta(gt=0, le=1e12)]
_Number = Annotated[float, Meta(ge=0, le=1e12)]

#: Metrics of which a workload may have no data.
_OPTIONAL: dict[str, Any] = {
    "load_realised": _Positive | None,
    **dict.fromkeys(
        ("mean_tpot_s", "p50_tpot_s", "p90_tpot_s", "p99_tpot_s", "p99_itl_s"), _Number | None
    ),
    **dict.fromkeys(("slo_attainment", "goodput_rps"), _Number | None),
}

#: Metrics that a row is made of, as a type by which a journal's line is checked.
RowMetrics = msgspec.defstruct(
    "RowMetrics",
    [
        ("mean_latency_s", _Positive),
        *((name, _Number) for name in (*_MEANS, *_LARGEST) if name not in _OPTIONAL),
        *((name, kind, None) for name, kind in _OPTIONAL.items()),
    ],
)


def statistics_of(
    runs: list[Metrics], reference: list[Metrics], oracle: list[Metrics] | None
) -> dict[str, Any]:
    """The numbers of a row, under the names of `laps_env.evaluation.results.Row`.

    Args:
        runs: Metrics of the policy on each workload.
        reference: Metrics of the reference on the same workloads.
        oracle: Metrics of the clairvoyant on the same workloads, None where there is none.
    """
    values, base = _latencies(runs), _latencies(reference)
    tails = np.array([metrics["p99_latency_s"] for metrics in runs], np.float64)
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
        "gap_closed": None if oracle is None else gap_closed(values, base, _latencies(oracle)),
        **{name: _mean(_known(runs, name)) for name in _MEANS},
        **{name: max(_known(runs, name)) for name in _LARGEST},
        "scheduling_share": _scheduling_share(runs),
        "load_realised": _mean(loads := _known(runs, "load_realised")),
        "load_realised_range": (min(loads), max(loads)) if loads else None,
        "episode_load_realised": loads or None,
        "episode_mean_latency_s": values.tolist(),
        "episode_p99_latency_s": tails.tolist(),
        "p99_latency_ci95": mean_with_interval(tails)[1],
        **{f"{name}_ci95": _interval(runs, name) for name in ("slo_attainment", "goodput_rps")},
        "category_mean_latency_s": _by_category(runs),
    }


def with_no_data(metrics: dict[str, float]) -> Metrics:
    """Metrics with None where a number is not finite."""
    return {name: value if np.isfinite(value) else None for name, value in metrics.items()}


def _known(runs: list[Metrics], name: str) -> list[float]:
    """The values of a metric on the workloads that have it."""
    return [value for metrics in runs if (value := metrics.get(name)) is not None]


def _by_category(runs: list[Metrics]) -> dict[str, float]:
    """Mean latency by category, over the workloads that have requests of it."""
    names = dict.fromkeys(n for run in runs for n in run if n.startswith(OF_CATEGORY))
    return {n.removeprefix(OF_CATEGORY): float(np.mean(_known(runs, n))) for n in names}


def _interval(runs: list[Metrics], name: str) -> Interval:
    known = np.array(_known(runs, name))
    return mean_with_interval(known)[1] if known.size else None


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _latencies(runs: list[Metrics]) -> npt.NDArray[np.float64]:
    """Mean latency of each workload in seconds, [n]."""
    return np.array([metrics["mean_latency_s"] for metrics in runs], np.float64)


def _scheduling_share(runs: list[Metrics]) -> float | None:
    """Time outside rounds over the time in them, which a live server alone measures."""
    if "scheduling_s" not in runs[0]:
        return None
    shares, spans = _known(runs, "utilization"), _known(runs, "makespan_s")
    return sum(_known(runs, "scheduling_s")) / float(np.dot(shares, spans))
