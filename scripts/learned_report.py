"""Write the tables and the picture of docs/learned.md from a sweep; see --help.

laps-env sweep sweeps/learned.toml --out runs/learned
python scripts/learned_report.py runs/learned
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from make_docs import ROOT, with_part
from matplotlib.figure import Figure

from laps_env.evaluation.grid import ORACLE, REFERENCE
from laps_env.evaluation.statistics import gap_closed, nested_ratio_with_interval
from laps_env.evaluation.statistics import ratio_with_interval as plain_ratio
from laps_env.report.tables import markdown_table
from laps_env.utils.files import write_beside

PAGE = ROOT / "docs" / "learned.md"
CURVES = ROOT / "docs" / "learned.png"

Cell = tuple[Any, ...]
Row = dict[str, Any]


def family(name: str) -> str:
    """A model's name without its seed."""
    return re.sub(r"-\d+$", "", name)


def cell_of(row: Row) -> Cell:
    """Scenario, load, error, slots and episodes that a row was measured on."""
    return (row["scenario"], row["load"], row["predictor_error"], row["slots"], row["episodes"])


def read_rows(folder: Path) -> dict[Cell, dict[str, list[Row]]]:
    """Rows by what they were measured on and by family, a row per training seed."""
    found: dict[Cell, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    lines = (folder / "rows.journal").read_text(encoding="utf-8").splitlines()[1:]
    for row in sorted((json.loads(line)["row"] for line in lines), key=lambda r: r["policy"]):
        found[cell_of(row)][family(row["policy"])].append(row)
    return found


def latencies(rows: list[Row]) -> Any:
    """Mean latencies [seeds, workloads]."""
    return np.array([row["episode_mean_latency_s"] for row in rows])


def ratio_text(rows: list[Row], reference: Row) -> str:
    """Ratio to the reference with its interval."""
    values, base = latencies(rows), np.array(reference["episode_mean_latency_s"])
    if len(rows) > 1:
        ratio, interval = nested_ratio_with_interval(values, base)
    else:
        ratio, interval = plain_ratio(values[0], base)
    return f"{ratio:.3f}" + ("" if interval is None else f" ({interval[0]:.3f}-{interval[1]:.3f})")


def figures(rows: list[Row], reference: Row, oracle: Row) -> list[str]:
    """Mean latency with its interval, p99 latency and longest slowdown relative to the reference
    policy's, gap closed."""
    gap = gap_closed(
        latencies(rows).mean(axis=0), *(latencies([row])[0] for row in (reference, oracle))
    )
    tail, slow = (
        f"{np.mean([row[name] for row in rows]) / reference[name]:.2f}"
        for name in ("p99_latency_s", "max_slowdown")
    )
    return [ratio_text(rows, reference), tail, slow, "n/a" if gap is None else f"{gap:.2f}"]


FIGURES = ("mean latency", "p99", "max slowdown", "gap closed")


def results_table(cells: dict[Cell, dict[str, list[Row]]]) -> str:
    """Per scenario, load, error and table size, each family that was tried in several."""
    names = [name for found in cells.values() for name in found if name not in (REFERENCE, ORACLE)]
    shown = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    body = [
        [*cell, f"`{name}`", len(found[name]), *figures(found[name], *rivals(found))]
        for cell, found in sorted(cells.items(), key=lambda item: tuple(map(str, item[0])))
        for name in [*shown, ORACLE]
        if name in found
    ]
    where = ("scenario", "load", "predictor error", "slots", "workloads")
    return markdown_table([*where, "policy", "seeds", *FIGURES], body)


def rivals(found: dict[str, list[Row]]) -> list[Row]:
    """The rows of reference and oracle."""
    return [found[name][0] for name in (REFERENCE, ORACLE)]


def read_journals(folder: Path) -> dict[str, list[list[Row]]]:
    """Blocks of each run by family."""
    found: dict[str, list[list[Row]]] = defaultdict(list)
    for path in sorted(folder.glob("*/journal")):
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        found[family(path.parent.name)].append([json.loads(line) for line in lines])
    return found


def runs_table(
    journals: dict[str, list[list[Row]]], cells: dict[Cell, dict[str, list[Row]]]
) -> str:
    """What each family reached on *validation*, and its best blocks where all were tried."""
    (common,) = [found for found in cells.values() if set(journals) <= set(found)]
    body = []
    for name, runs in journals.items():
        best = [min(block["validation"][0] for block in run) for run in runs]
        first, last = ([run[k]["validation"][0] for run in runs] for k in (0, -1))
        minutes = np.mean([sum(block["seconds"] for block in run) for run in runs]) / 60
        tune = [f"{np.exp(np.mean(values)):.3f}" for values in (first, best, last)]
        final = figures(common[name], *rivals(common))
        body.append([f"`{name}`", len(runs), f"{minutes:.1f}", *tune, *final])
    headings = ["run", "seeds", "minutes", "first block", "best block", "last block"]
    return markdown_table([*headings, *FIGURES], body)


def draw_curves(journals: dict[str, list[list[Row]]], path: Path) -> None:
    """Mean latency on the *validation* split against the minutes of training, a line per run."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, runs) in enumerate(journals.items()):
        for k, run in enumerate(runs):
            minutes = np.cumsum([block["seconds"] for block in run]) / 60
            ratios = np.exp([block["validation"][0] for block in run])
            label = name if k == 0 else None
            axes.plot(minutes, ratios, color=f"C{number}", marker=".", alpha=0.7, label=label)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("minutes of training")
    axes.set_ylabel(f"mean latency / {REFERENCE}, validation split")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the sweep")
    given = parser.parse_args()
    try:
        journals, cells = read_journals(given.folder), read_rows(given.folder)
        text = PAGE.read_text(encoding="utf-8")
        text = with_part(text, "results", results_table(cells))
        text = with_part(text, "runs", runs_table(journals, cells))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    draw_curves(journals, CURVES)
    write_beside(PAGE, [text.encode()])
    print(f"wrote {PAGE.relative_to(ROOT)}, {CURVES.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
