"""A folder with the report of an evaluation: ``index.html``, ``results.md``, ``timelines/``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from laps_env.evaluation.results import Results, Row
from laps_env.report.page import Links, report_page
from laps_env.report.tables import results_page
from laps_env.report.timeline import Timeline, record_row
from laps_env.report.timeline_page import comparison_page, file_name, write_timelines
from laps_env.utils.files import write_beside

Place = tuple[str, float | str, int]
"""Scenario, load and seed of a workload."""

#: Requests of the workload that is drawn: enough to see, few enough to scroll.
TIMELINE_REQUESTS = 60


def steps_of(results: Results) -> int:
    """Steps of `write_report` on these results."""
    return len(_busiest(results))


def write_report(
    results: Results,
    folder: Path,
    on_progress: Callable[[int], object] = lambda steps: None,
) -> Path:
    """Write the report of results whose rows can be run again; ``index.html`` comes last.

    Args:
        results: Content of a results file.
        folder: Folder of the report, made if it is not there.
        on_progress: Told of every step that is done with 1.

    Returns:
        Path of ``index.html``.

    Raises:
        ValueError: Results that cannot be run again; nothing is written then.
        OSError: The folder cannot be written.
    """
    pages: dict[str, str] = {}
    links: Links = {}
    for scenario, rows in _busiest(results).items():
        address = f"timelines/{file_name(scenario)}.html"
        pages[address] = _timeline_page(results, rows)
        links[scenario] = {f"timelines, load {rows[0].load}": address}
        on_progress(1)
    (folder / "timelines").mkdir(parents=True, exist_ok=True)
    for address, page in pages.items():
        write_beside(folder / address, [page.encode()])
    return _write_pages(results, folder, links)


def _busiest(results: Results) -> dict[str, list[Row]]:
    """The rows of each scenario at its highest load; "recorded" is above all numbers."""

    def load(row: Row) -> float:
        return float("inf") if isinstance(row.load, str) else row.load

    highest: dict[str, list[Row]] = {}
    for row in results.rows:
        rows = highest.get(row.scenario, [])
        if not rows or load(row) > load(rows[0]):
            highest[row.scenario] = [row]
        elif load(row) == load(rows[0]):
            rows.append(row)
    return highest


def _timeline_page(results: Results, rows: list[Row]) -> str:
    """The reference and the fastest other rule, on the first seed but fewer requests."""
    first = rows[0]
    shown = [row for row in rows if row.policy == first.reference]
    others = [row for row in rows if row.policy not in (first.reference, first.oracle)]
    shown += sorted(others, key=lambda row: row.mean_latency_s)[:1]
    shorter = [replace(row, num_requests=TIMELINE_REQUESTS) for row in shown]
    recorded = [record_row(results, row, 0) for row in shorter]
    return comparison_page(recorded, f"{first.place}, {TIMELINE_REQUESTS} requests")


def _write_pages(results: Results, folder: Path, links: Links) -> Path:
    write_beside(folder / "results.md", [results_page(results).encode()])
    index = folder / "index.html"
    write_beside(index, [report_page(results, links).encode()])
    return index


class LiveReport:
    """The report of a live server, whose episodes happen once.

    Timelines are written when a workload has been played, the other pages at the end.

    Args:
        folder: Folder of the report, made if it is not there.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "timelines").mkdir(parents=True, exist_ok=True)
        self._links: Links = defaultdict(dict)

    def add(self, place: Place, timelines: list[Timeline]) -> None:
        """Write page and Chrome traces of a workload (`laps_env.live.backend.LiveBackend`)."""
        scenario, load, seed = place
        address = f"timelines/{file_name(scenario)}-{load}-seed{seed}.html"
        requests = len(timelines[0].requests)
        title = f"live {scenario}, load {load}, {requests} requests, seed {seed}"
        write_timelines(timelines, self._folder / address, title)
        self._links[scenario][f"timelines, load {load}, seed {seed}"] = address

    def write(self, results: Results) -> Path:
        """Write ``results.md`` and ``index.html``, whose path is returned."""
        return _write_pages(results, self._folder, self._links)
