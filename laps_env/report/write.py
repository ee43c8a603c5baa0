"""A folder with the report of a results file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from laps_env.evaluation.runner import scenario_of
from laps_env.report.page import Links, report_page
from laps_env.report.sample import Sample, sample_latencies
from laps_env.report.tables import markdown_tables
from laps_env.report.timeline_page import comparison_page
from laps_env.report.timeline_play import record_policy
from laps_env.utils.files import write_beside

#: Of the workload that is drawn: enough to see, few enough to scroll.
TIMELINE_REQUESTS = 60


def steps_of(results: dict[str, Any]) -> int:
    """Steps of `write_report` on these results."""
    return len(results["rows"]) + len(_busiest(results))


def write_report(
    results: dict[str, Any],
    folder: Path,
    on_progress: Callable[[int], Any] = lambda steps: None,
) -> Path:
    """Write ``timelines/``, ``results.md`` and, last, ``index.html``, whose path is returned.

    Args:
        results: content of a results file, made by this code.
        folder: made if it is not there.
        on_progress: told of every step that is done.

    Raises:
        ValueError: results that cannot be run again.
        OSError: the folder cannot be written.
    """
    samples = sample_latencies(results["rows"], on_progress)
    pages, links = {}, {}
    for scenario, rows in _busiest(results).items():
        address = f"timelines/{scenario}.html"
        pages[address] = _timeline_page(rows, results["reference"], results["oracle"])
        links[scenario] = {f"timelines, load {rows[0]['load']}": address}
        on_progress(1)
    (folder / "timelines").mkdir(parents=True, exist_ok=True)
    for address, page in pages.items():
        write_beside(folder / address, [page.encode()])
    return write_pages(results, folder, samples, links)


def _busiest(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each scenario at its highest load; "recorded" is above all numbers."""

    def load(row: dict[str, Any]) -> float:
        return row["load"] if isinstance(row["load"], float | int) else float("inf")

    highest: dict[str, list[dict[str, Any]]] = {}
    for row in results["rows"]:
        rows = highest.get(row["scenario"], [])
        if not rows or load(row) > load(rows[0]):
            highest[row["scenario"]] = [row]
        elif load(row) == load(rows[0]):
            rows.append(row)
    return highest


def _timeline_page(rows: list[dict[str, Any]], reference: str, oracle: str) -> str:
    """The reference and the fastest other rule, on the first seed but fewer requests."""
    others = [row for row in rows if row["policy"] not in (reference, oracle)]
    best = min(others, key=lambda row: row["mean_latency_s"], default={"policy": "fcfs"})
    row = rows[0]
    scenario = scenario_of(row)
    options = {name: row[name] for name in ("load", "predictor_error", "split", "slots")}
    recorded = [
        record_policy(
            name, row["seeds"][0], scenario=scenario, num_requests=TIMELINE_REQUESTS, **options
        )
        for name in (reference, best["policy"])
    ]
    title = f"{row['scenario']}, load {row['load']}, {TIMELINE_REQUESTS} requests"
    return comparison_page(recorded, title)


def write_pages(results: dict[str, Any], folder: Path, samples: list[Sample], links: Links) -> Path:
    """Write the pages of results whose samples and timelines are there; the arguments are theirs.

    Raises:
        OSError: the folder cannot be written.
    """
    write_beside(folder / "results.md", [markdown_tables(results).encode()])
    index = folder / "index.html"
    write_beside(index, [report_page(results, samples, links).encode()])
    return index
