"""Results as text: a table per scenario and load."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

_HEADINGS = (
    "policy",
    "mean s",
    "ratio",
    "[95 % interval]",
    "p50 s",
    "p95 s",
    "p99 s",
    "max slowdown",
    "max idle s",
    "gap closed",
)


def tables(results: dict[str, Any]) -> str:
    """All rows, fastest first, one table per scenario and load."""
    parts = [
        _table(scenario, load, list(rows))
        for (scenario, load), rows in groupby(
            results["rows"], key=lambda row: (row["scenario"], row["load"])
        )
    ]
    return "\n\n".join([*parts, _legend(results)])


def _table(scenario: str, load: float | str, rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    title = (
        f"{scenario}, load {load}: {first['episodes']} workloads of {first['num_requests']} "
        f"requests"
    )
    if first["source"]["filled_share"] is not None:
        title += f", {first['source']['filled_share']:.0%} of the acceptances filled"
    ordered = sorted(rows, key=lambda row: row["mean_latency_s"])
    cells = [_HEADINGS, *(_cells(row) for row in ordered)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(_HEADINGS))]
    return "\n".join([title, *(_line(row, widths) for row in cells)])


def _line(cells: Iterable[str], widths: list[int]) -> str:
    name, *numbers = (
        cell.ljust(width) if k == 0 else cell.rjust(width)
        for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([name, *numbers]).rstrip()


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    interval, gap = row["ratio_ci95"], row["gap_closed"]
    return (
        row["policy"],
        f"{row['mean_latency_s']:.2f}",
        f"{row['ratio_to_laps_sd']:.3f}",
        "n/a" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]",
        *(f"{row[f'p{p}_latency_s']:.2f}" for p in (50, 95, 99)),
        f"{row['max_slowdown']:.0f}",
        f"{row['max_idle_s']:.0f}",
        "n/a" if gap is None else f"{gap:.2f}",
    )


def _legend(results: dict[str, Any]) -> str:
    return (
        f"ratio: mean latency over that of {results['reference']} on the same workloads; "
        "percentiles: mean over workloads;\nmax: over all workloads; idle: a request's longest "
        f"wait for a round; gap closed: 0 = {results['reference']}, 1 = {results['oracle']}."
    )
