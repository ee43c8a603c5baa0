"""The page of a results file: table, distributions, loads, tails, gaps, categories, timelines."""

from __future__ import annotations

from typing import Any

from laps_env.report.html import filled_page
from laps_env.report.sample import Sample

#: What the page shows of a row, under the row's own names.
_SHOWN = (
    "scenario",
    "load",
    "source",
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


Links = dict[str, dict[str, str]]
"""Addresses of timeline pages relative to the report's, by scenario and by what a link says."""


def report_page(results: dict[str, Any], samples: list[Sample], links: Links) -> str:
    """The page, self-contained.

    Args:
        results: content of a results file.
        samples: `laps_env.report.sample_latencies` of its rows.
        links: to timelines.
    """
    rows = results["rows"]
    document = {
        "created": results["created"],
        "code": results["code"],
        "reference": results["reference"],
        "oracle": results["oracle"],
        "requests": rows[0]["num_requests"],
        "rows": [
            {name: row[name] for name in _SHOWN} | sample
            for row, sample in zip(rows, samples, strict=True)
        ],
        "links": links,
    }
    return filled_page("report.html", document)
