"""Latencies request by request, which results files do not hold: one workload of each row again."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.evaluation.episodes import serve
from laps_env.evaluation.runner import parts_of

#: Points of a distribution that are kept.
QUANTILES = np.linspace(0, 100, 51)

Sample = dict[str, Any]
"""``quantiles`` [51] of the latency in seconds, ``categories``: (name, mean latency) of each."""


def sample_latencies(
    rows: list[dict[str, Any]], on_progress: Callable[[int], None] = lambda rows: None
) -> list[Sample]:
    """Of each row's first workload.

    Args:
        rows: of a results file, written by the same code.
        on_progress: called with 1 after each.

    Raises:
        ValueError: a row that cannot be run again.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pending = {pool.submit(_sample, row): k for k, row in enumerate(rows)}
        found: dict[int, Sample] = {}
        try:
            for done in as_completed(pending):
                found[pending[done]] = done.result()
                on_progress(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [found[k] for k in range(len(rows))]


def _sample(row: dict[str, Any]) -> Sample:
    policy, workload, scenario = parts_of(row, 0)
    requests = serve(policy, workload, scenario, slots=row["slots"]).requests()
    return sample_of(requests, workload.categories)


def sample_of(requests: npt.NDArray[Any], categories: tuple[str, ...]) -> Sample:
    """Of an episode that has ended.

    Args:
        requests: `laps_env.sim.state.REQUEST` records [R].
        categories: their names.
    """
    latency = (requests["completion_ns"] - requests["arrival_ns"]) * 1e-9
    return {
        "quantiles": np.percentile(latency, QUANTILES).tolist(),
        "categories": [
            (name, float(latency[requests["category"] == k].mean()))
            for k, name in enumerate(categories)
            if (requests["category"] == k).any()
        ],
    }
