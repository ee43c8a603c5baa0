"""The page of a results file: table, distributions, loads, tails, gaps, categories, timelines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from laps_env.report.sample import Sample

#: What the page shows of a row, under the row's own names.
_SHOWN = (
    "scenario",
    "load",
    "policy",
    "batch_size",
    "episodes",
    "mean_latency_s",
    "mean_latency_ci95",
    "ratio_to_laps_sd",
    "ratio_ci95",
    "p50_latency_s",
    "p95_latency_s",
    "p99_latency_s",
    "mean_ttft_s",
    "max_slowdown",
    "max_idle_s",
    "gap_closed",
)


def report_page(
    results: dict[str, Any], samples: list[Sample], timelines: Mapping[str, str]
) -> str:
    """The page, self-contained.

    Args:
        results: content of a results file.
        samples: `laps_env.report.sample_latencies` of its rows.
        timelines: addresses of timeline pages by scenario, relative to this page.
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
        "timelines": dict(timelines),
    }
    page = (files("laps_env") / "report" / "page.html").read_text(encoding="utf-8")
    # "<" cannot end the script that holds the data, whatever the texts are.
    data = json.dumps(document, allow_nan=False).replace("<", "\\u003c")
    return page.replace("/*DATA*/null", data, 1)
