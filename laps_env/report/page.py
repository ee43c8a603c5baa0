"""The page of results: table, distributions, loads, tails, gaps, categories, timelines, verdict.

Results hold no latency of a single request; what the page shows of them is one workload of each
row, run again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.resources import files
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from laps_env.evaluation.episodes import serve
from laps_env.evaluation.replay import parts_of
from laps_env.evaluation.results import Results, Row
from laps_env.report.verdict import verdicts

#: What the page shows of a row, under the row's own names.
_SHOWN = (
    "scenario",
    "load",
    "source",
    "filled_share",
    "policy",
    "episodes",
    "mean_latency_s",
    "ratio_to_reference",
    "ratio_ci95",
    "p50_latency_s",
    "p95_latency_s",
    "p99_latency_s",
    "mean_ttft_s",
    "max_slowdown",
    "gap_closed",
)

#: Points of a distribution that are kept.
QUANTILES = np.linspace(0, 100, 51)

Sample = dict[str, Any]
"""``quantiles`` [51] of the latency in seconds, ``categories``: (name, mean latency) of each."""

Links = dict[str, dict[str, str]]
"""Addresses of timeline pages relative to the report's, by scenario and by what a link says."""


def report_page(results: Results, samples: list[Sample], links: Links) -> str:
    """The page, self-contained, from results, a sample of each row and the timelines' addresses."""
    rows = [
        {name: getattr(row, name) for name in _SHOWN} | sample
        for row, sample in zip(results.rows, samples, strict=True)
    ]
    document = {
        "created": results.created,
        "simulator": results.simulator,
        "reference": results.reference,
        "oracle": results.oracle,
        "requests": results.rows[0].num_requests,
        "rows": msgspec.to_builtins(rows),
        "links": links,
        "verdicts": verdicts(results),
    }
    return filled_page("report.html", document)


def filled_page(template: str, document: Any) -> str:
    """A page that loads nothing: a template of this folder with a document as its data."""
    page = (files("laps_env.report") / template).read_text(encoding="utf-8")
    # "<" cannot end the script that holds the data, whatever the texts are.
    data = json.dumps(document, allow_nan=False).replace("<", "\\u003c")
    return page.replace("/*DATA*/null", data, 1)


def sample_latencies(
    rows: list[Row], on_progress: Callable[[int], object] = lambda rows: None
) -> list[Sample]:
    """Latencies request by request in each row's first workload, which is run again.

    Args:
        rows: Rows of a results file.
        on_progress: Told of each finished row with 1.

    Raises:
        ValueError: A row that cannot be run again.
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


def _sample(row: Row) -> Sample:
    policy, workload, scenario = parts_of(row, 0)
    requests = serve(policy, workload, scenario, split=row.split, slots=row.slots).requests()
    return sample_of(requests, workload.categories)


def sample_of(requests: npt.NDArray[Any], categories: tuple[str, ...]) -> Sample:
    """The sample of an episode that has ended.

    Args:
        requests: `laps_env.sim.state.REQUEST` records [R].
        categories: Names of the categories.
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
