"""A folder with the report of a results file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from laps_env.evaluation.report import markdown_tables
from laps_env.evaluation.runner import parts_of
from laps_env.files import write_beside
from laps_env.report.page import report_page
from laps_env.report.sample import sample_latencies
from laps_env.timeline import comparison_page, record_policy

#: Policies whose timelines are compared, on the busiest load of each scenario.
COMPARED = ("fcfs", "laps_sd_tuned")
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
    (folder / "timelines").mkdir(parents=True, exist_ok=True)
    samples = sample_latencies(results["rows"], on_progress)
    timelines = {}
    for scenario, row in _busiest(results).items():
        timelines[scenario] = f"timelines/{scenario}.html"
        write_beside(folder / timelines[scenario], [_timeline_page(row).encode()])
        on_progress(1)
    write_beside(folder / "results.md", [markdown_tables(results).encode()])
    index = folder / "index.html"
    write_beside(index, [report_page(results, samples, timelines).encode()])
    return index


def _busiest(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A row of each scenario at its highest load."""
    return {r["scenario"]: r for r in sorted(results["rows"], key=lambda row: str(row["load"]))}


def _timeline_page(row: dict[str, Any]) -> str:
    """Policies side by side on a workload with the row's first seed, of fewer requests."""
    _, _, scenario = parts_of(row, 0)
    options = {name: row[name] for name in ("load", "predictor_error", "set_tag", "slots")}
    recorded = [
        record_policy(
            name, row["seeds"][0], scenario=scenario, num_requests=TIMELINE_REQUESTS, **options
        )
        for name in COMPARED
    ]
    title = f"{row['scenario']}, load {row['load']}, {TIMELINE_REQUESTS} requests"
    return comparison_page(recorded, title)
