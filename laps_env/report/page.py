"""The page of results: table, distributions, loads, tails, gaps, categories, timelines, verdict.

Everything but the timelines is what the rows hold.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import msgspec

from laps_env.evaluation.results import Results
from laps_env.report.verdict import verdicts
from laps_env.sim.metrics import PERCENTILES

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
    *(f"p{q}_latency_s" for q in PERCENTILES),
    "p99_latency_ci95",
    "mean_ttft_s",
    "p99_ttft_s",
    "p99_tpot_s",
    "longest_stall_s",
    "slo_attainment",
    "gap_closed",
)

Links = dict[str, dict[str, str]]
"""Addresses of timeline pages relative to the report's, by scenario and by what a link says."""


def report_page(results: Results, links: Links) -> str:
    """The page, self-contained, from results and the timelines' addresses."""
    rows = [
        {name: getattr(row, name) for name in _SHOWN}
        # pairs, for somebody's category may have a name that is a property of every object
        | {"categories": list((row.category_mean_latency_s or {}).items())}
        for row in results.rows
    ]
    document = {
        "created": results.created,
        "simulator": results.simulator,
        "reference": results.reference,
        "oracle": results.oracle,
        "requests": results.rows[0].num_requests,
        "percentiles": PERCENTILES,
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
