"""Tables: the one helper for text and Markdown, and results as a table per scenario and load."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import compress, groupby

import numpy as np

from laps_env.evaluation.results import Results, Row
from laps_env.evaluation.statistics import side_of_one
from laps_env.report.verdict import verdicts

Lines = Iterable[Iterable[object]]

_LIMITS = "limits kept"
_HEADINGS = (
    "policy",
    "mean s",
    "ratio",
    "[95 % interval]",
    "p50 s",
    "p95 s",
    "p99 s",
    "p99 ttft s",
    "p99 tpot ms",
    "stall s",
    _LIMITS,
    "max idle s",
    "gap closed",
)

#: How far a realised load may be off its label before it is worth a warning.
LOAD_TOLERANCE = 0.03


def text_table(headings: Iterable[object], rows: Lines) -> str:
    """A table for a terminal: the first column to the left, the others to the right."""
    lines = _as_texts(headings, rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(headings: Iterable[object], rows: Lines) -> str:
    """A table for a page."""
    first, *others = _as_texts(headings, rows)
    lines = [first, ["---"] * len(first), *others]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _as_texts(headings: Iterable[object], rows: Lines) -> list[list[str]]:
    return [[str(cell) for cell in line] for line in (headings, *rows)]


def results_text(results: Results) -> str:
    """All rows for a terminal, fastest first, one table per scenario and load."""
    parts = [
        "\n".join([title(rows), *_warnings(rows), text_table(*_table(rows))])
        for rows in places_of(results)
    ]
    families = families_of(results)
    if len({family for _, family, *_ in families}) > 1:
        lines = [(*line[:3], "wins here alone" * line[3]) for line in families]
        headings = ("policy", "acceptance", "better / tied / worse", "")
        parts.append(
            f"scenarios and loads better / tied / worse than {results.reference}, by where "
            f"acceptance comes from\n{text_table(headings, lines)}"
        )
    told = [f"verdict, {place}\n" + "\n".join(said) for place, said in verdicts(results).items()]
    return "\n\n".join([*parts, _legend(results), *told])


def results_page(results: Results) -> str:
    """The same as Markdown, under a line that says which simulator it is of."""
    parts = [f"Simulator version {results.simulator}, {results.created}."]
    for rows in places_of(results):
        parts += [f"## {title(rows)}", *_warnings(rows)]
        parts.append(markdown_table(*_table(rows)))
    parts.append(_legend(results))
    for place, sentences in verdicts(results).items():
        parts += [f"## Verdict, {place}", "\n".join(f"- {said}" for said in sentences)]
    return "\n\n".join(parts) + "\n"


def families_of(results: Results) -> list[tuple[str, str, str, bool]]:
    """Per policy, how it stands against the reference in each family of scenarios.

    Returns:
        (policy, family, "better / tied / worse" counts of rows by their intervals, whether it wins
        in this family and in no other), by policy. A policy wins a family where it is better in
        more rows than it is worse. Rows without an interval do not count.
    """
    counts: dict[str, dict[str, list[int]]] = {}
    for row in results.rows:
        if row.ratio_ci95 is None or row.policy == results.reference:
            continue
        tally = counts.setdefault(row.policy, {}).setdefault(row.family, [0, 0, 0])
        tally[1 + side_of_one(row.ratio_ci95)] += 1
    listed = []
    for policy, own in counts.items():
        winning = [family for family, (better, _, worse) in own.items() if better > worse]
        for family, tally in own.items():
            only = winning == [family] and len(own) > 1
            listed.append((policy, family, " / ".join(map(str, tally)), only))
    return listed


def title(rows: list[Row]) -> str:
    """What the rows of a scenario and load were measured on."""
    first = rows[0]
    words = [f"{first.place}: {first.episodes} workloads of {first.num_requests} requests"]
    if (loads := first.episode_load_realised) is not None:
        words.append(f"load realised {np.mean(loads):.2f} ({min(loads):.2f} to {max(loads):.2f})")
    if first.filled_share is not None:
        words.append(f"{first.filled_share:.0%} of the acceptances filled")
    return ", ".join(words)


def warnings_of(rows: list[Row]) -> list[str]:
    """What a reader must know of the rows of a scenario and load, each as a sentence.

    A load that is not what its label says: above 1, where queues grow until the requests end, or
    off the label by more than `LOAD_TOLERANCE` and two standard errors. And a server on which order
    cannot matter.
    """
    first = rows[0]
    found, loads = [], first.episode_load_realised
    if loads is not None:
        mean = float(np.mean(loads))
        if mean > 1:
            found.append(f"{first.place}: the load realised is {mean:.2f}, above saturation")
        elif not isinstance(first.load, str) and len(loads) > 1:
            error = float(np.std(loads, ddof=1)) / math.sqrt(len(loads))
            if abs(mean - first.load) > max(LOAD_TOLERANCE, 2 * error):
                found.append(f"{first.place}: the load realised is {mean:.2f}, off its label")
    if all(row.contended_share == 0 for row in rows):
        found.append(f"{first.place}: no round left anybody waiting, so order cannot matter")
    return found


def _warnings(rows: list[Row]) -> list[str]:
    return [f"warning: {text}" for text in warnings_of(rows)]


def places_of(results: Results) -> Iterator[list[Row]]:
    """The rows of each scenario and load, fastest first."""
    for _, rows in groupby(results.rows, key=lambda row: row.place):
        yield sorted(rows, key=lambda row: row.mean_latency_s)


def _table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines; without limits there is no column of limits kept."""
    limited = any(row.slo_attainment is not None for row in rows)
    shown = [limited or heading != _LIMITS for heading in _HEADINGS]
    return list(compress(_HEADINGS, shown)), [list(compress(_cells(r), shown)) for r in rows]


def _cells(row: Row) -> tuple[str, ...]:
    interval = row.ratio_ci95
    return (
        row.policy,
        f"{row.mean_latency_s:.2f}",
        f"{row.ratio_to_reference:.3f}",
        "n/a" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]",
        f"{row.p50_latency_s:.2f}",
        f"{row.p95_latency_s:.2f}",
        f"{row.p99_latency_s:.2f}",
        _number(row.p99_ttft_s, "{:.2f}"),
        _number(row.p99_tpot_s, "{:.1f}", 1000),
        _number(row.longest_stall_s, "{:.1f}"),
        _number(row.slo_attainment, "{:.1%}"),
        f"{row.max_idle_s:.0f}",
        _number(row.gap_closed, "{:.2f}"),
    )


def _number(value: float | None, form: str, times: float = 1) -> str:
    return "n/a" if value is None else form.format(times * value)


def _legend(results: Results) -> str:
    return (
        f"ratio: mean latency over that of {results.reference} on the same workloads; "
        "percentiles: mean over workloads;\nttft: time to first token; tpot: time per output token "
        "behind it; stall: longest time between tokens, idle: longest wait for\na round, over all "
        f"workloads; gap closed: 0 = {results.reference}, 1 = {results.oracle}."
    )
