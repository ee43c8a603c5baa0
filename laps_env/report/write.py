"""A folder with the report of a results file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from laps_env.evaluation.report import markdown_tables
from laps_env.evaluation.runner import parts_of
from laps_env.files import write_beside
from laps_env.report.page import report_page
from laps_env.report.sample import Sample, sample_latencies, sample_of
from laps_env.timeline import Timeline, comparison_page, record_policy, write_timelines

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
    pages = {}
    for scenario, rows in _busiest(results).items():
        pages[scenario] = f"timelines/{scenario}.html"
        text = _timeline_page(rows, results["reference"], results["oracle"])
        write_beside(folder / pages[scenario], [text.encode()])
        on_progress(1)
    return _write(results, folder, samples, pages)


def write_live_report(
    results: dict[str, Any],
    timelines: Mapping[tuple[str, float, int], list[Timeline]],
    folder: Path,
) -> Path:
    """The same of a live server, whose episodes happen once: each leaves its timelines.

    Args:
        results: of `laps_env.live.evaluation.LiveGrid`.
        timelines: of all its runs, by scenario, load and seed.
        folder: made if it is not there.

    Raises:
        OSError: the folder cannot be written.
    """
    (folder / "timelines").mkdir(parents=True, exist_ok=True)
    pages: dict[str, str] = {}
    samples: dict[tuple[str, float, str], Sample] = {}  # of the first seed alone
    for (scenario, load, seed), played in timelines.items():
        address = f"timelines/{scenario}-{load}-seed{seed}.html"
        title = f"live {scenario}, load {load}, {len(played[0].requests)} requests, seed {seed}"
        write_timelines(played, folder / address, title)
        pages.setdefault(f"live {scenario}", address)
        for timeline in played:
            place = (f"live {scenario}", load, timeline.title)
            samples.setdefault(place, sample_of(timeline.requests, timeline.categories))
    ordered = [samples[row["scenario"], row["load"], row["policy"]] for row in results["rows"]]
    return _write(results, folder, ordered, pages)


def _write(
    results: dict[str, Any], folder: Path, samples: list[Sample], pages: dict[str, str]
) -> Path:
    write_beside(folder / "results.md", [markdown_tables(results).encode()])
    index = folder / "index.html"
    write_beside(index, [report_page(results, samples, pages).encode()])
    return index


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
    _, _, scenario = parts_of(row, 0)
    options = {name: row[name] for name in ("load", "predictor_error", "set_tag", "slots")}
    recorded = [
        record_policy(
            name, row["seeds"][0], scenario=scenario, num_requests=TIMELINE_REQUESTS, **options
        )
        for name in (reference, best["policy"])
    ]
    title = f"{row['scenario']}, load {row['load']}, {TIMELINE_REQUESTS} requests"
    return comparison_page(recorded, title)
