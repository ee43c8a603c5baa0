"""Results as text: a table per scenario and load."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from laps_env.evaluation.statistics import side_of_one

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
    return "\n\n".join([*parts, *_families_table(results), _legend(results)])


def markdown_tables(results: dict[str, Any]) -> str:
    """The same as Markdown, under a line that says which code and workloads they are of."""
    parts = [f"Code {results['code']}, {results['created']}."]
    for (scenario, load), rows in groupby(
        results["rows"], key=lambda row: (row["scenario"], row["load"])
    ):
        ordered = sorted(rows, key=lambda row: row["mean_latency_s"])
        parts += [f"## {scenario}, load {load}", markdown_table(_HEADINGS, map(_cells, ordered))]
    return "\n\n".join([*parts, _legend(results)]) + "\n"


def markdown_table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table for a page."""
    names = list(headings)
    lines = [names, ["---"] * len(names), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def families(results: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Per policy, how it stands against the reference in each family of scenarios.

    Returns:
        (policy, family, "better / even / worse" counts of rows by their intervals, whether it wins
        in this family and in no other), by policy. A policy wins a family where it is better in
        more rows than it is worse. Rows without an interval do not count.
    """
    counts: dict[str, dict[str, list[int]]] = {}
    for row in results["rows"]:
        if row["ratio_ci95"] is None or row["policy"] == results["reference"]:
            continue
        family = row["source"]["acceptance"]
        tally = counts.setdefault(row["policy"], {}).setdefault(family, [0, 0, 0])
        tally[1 + side_of_one(row["ratio_ci95"])] += 1
    listed = []
    for policy, own in counts.items():
        winning = [family for family, (better, _, worse) in own.items() if better > worse]
        for family, tally in own.items():
            only = winning == [family] and len(own) > 1
            listed.append((policy, family, " / ".join(map(str, tally)), only))
    return listed


def _families_table(results: dict[str, Any]) -> list[str]:
    listed = families(results)
    if len({family for _, family, *_ in listed}) < 2:
        return []
    lines = [
        f"{policy:24} {family:36} {tally}{'   wins here alone' if only else ''}"
        for policy, family, tally, only in listed
    ]
    title = (
        f"by where acceptance comes from: scenarios and loads better / even / worse than "
        f"{results['reference']}"
    )
    return ["\n".join([title, *lines])]


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
        f"{row['ratio_to_reference']:.3f}",
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
