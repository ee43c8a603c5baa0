"""Write the tables of a results file into README.md and docs/board.md."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import tyro
from made_from import made_from
from make_docs import ROOT, filled

from laps_env.evaluation.results import Results, Row, read_results
from laps_env.report.leaderboard import leaderboard, leaderboard_table
from laps_env.report.tables import families_of, markdown_table
from laps_env.utils.files import write_beside
from laps_env.workloads.predictors import RECORDED

#: Policies of the tables that have not room for all, where the results have them.
MAIN_POLICIES = (
    "fcfs",
    "las_tuned",
    "sprpt_tuned",
    "laps_sd",
    "bayes_srpt_tuned",
    "gittins_tuned",
    "learned",
    "learned_index",
    "oracle_srpt",
)
#: Load of these tables.
RESULTS_LOAD = 0.9
ALONE = "wins in one alone"


def measured_on(results: Results, loads: str) -> str:
    """Size and simulator of an evaluation in words."""
    first = results.rows[0]
    scenarios = {row.scenario for row in results.rows}
    return (
        f"{len(scenarios)} scenarios, load {loads}, {first.episodes} workloads of "
        f"{first.num_requests} requests each; simulator {results.simulator}."
    )


def families_side_by_side(results: Results) -> str:
    """Main policies over the recorded and over the generated scenarios, best first."""
    at_load = [row for row in results.rows if row.load == RESULTS_LOAD]
    recorded = [row for row in at_load if row.family.startswith("recorded")]
    generated = [row for row in at_load if row not in recorded]
    first, second = (
        {standing.policy: standing for standing in leaderboard([replace(results, rows=rows)])}
        for rows in (recorded, generated)
    )
    shown = [name for name in (*MAIN_POLICIES, results.reference) if name in first.keys() & second]
    shown.sort(key=lambda name: first[name].mean * second[name].mean)
    cells = [
        [f"`{name}`", *(f"{x:.2f}" for s in (first[name], second[name]) for x in (s.mean, s.tail))]
        for name in shown
    ]
    columns = [f"{family}, {what}" for family in ("135m", "8b") for what in ("mean", "p99")]
    table = markdown_table(["policy", *columns], cells)
    return f"{table}\n\n{measured_on(results, str(RESULTS_LOAD))}"


def board(results: Results) -> str:
    """All policies over all scenarios and loads, then the main ones in each scenario."""
    loads = " and ".join(dict.fromkeys(str(row.load) for row in results.rows))
    at_load = [row for row in results.rows if row.load == RESULTS_LOAD]
    by_family = groupby(
        sorted(at_load, key=lambda row: not row.family.startswith("recorded")),
        key=lambda row: row.family,
    )
    return "\n\n".join(
        [
            measured_on(results, loads),
            leaderboard_table(leaderboard([results])),
            f"![Mean latency of each policy relative to {results.reference}](results.png)",
            f"At load {RESULTS_LOAD}: first mean latency / that of `{results.reference}` (95 % "
            "bootstrap interval over workloads), then p99 latency in seconds (mean over workloads) "
            f"/ gap closed, from 0 = `{results.reference}` to 1 = `{results.oracle}` (n/a: too "
            "small a gap to divide).",
            *(family_tables(family, list(rows), results.reference) for family, rows in by_family),
            "Scenarios and loads in which a policy's mean latency is better than / tied with / "
            f"worse than that of `{results.reference}` (95 % interval), by family:",
            standing_table(results),
        ]
    )


def family_tables(family: str, rows: list[Row], reference: str) -> str:
    """Ratios with intervals, then tails and gaps closed, a line per scenario of one family."""
    names = [name for name in MAIN_POLICIES if any(row.policy == name for row in rows)]
    ratios: dict[str, dict[str, str]] = {}
    tails: dict[str, dict[str, str]] = {}
    for row in rows:
        low, high = row.ratio_ci95 or (np.nan, np.nan)
        gap = "n/a" if row.gap_closed is None else f"{row.gap_closed:.2f}"
        ratio = f"{row.ratio_to_reference:.2f} ({low:.2f}-{high:.2f})"
        ratios.setdefault(row.scenario, {})[row.policy] = ratio
        tails.setdefault(row.scenario, {})[row.policy] = f"{row.p99_latency_s:.1f} / {gap}"
    error = rows[0].predictor_error
    told = "of a length model" if error == RECORDED else f"with an error of sd {error} (log)"
    title = f"**{family[0].upper()}{family[1:]}**, length predictions {told}:"
    tables = by_scenario(names, ratios), by_scenario([*names, reference], tails)
    return "\n\n".join((title, *tables))


def by_scenario(policies: list[str], cells: dict[str, dict[str, str]]) -> str:
    """A line per scenario of ``cells``, a column per policy."""
    lines = [
        [name, *(line.get(policy, "-") for policy in policies)] for name, line in cells.items()
    ]
    return markdown_table(["scenario", *(f"`{policy}`" for policy in policies)], lines)


def standing_table(results: Results) -> str:
    """How often each policy beats the reference, by family; a win in one alone is named."""
    cells: dict[str, dict[str, str]] = {}
    for policy, family, tally, only in families_of(results):
        line = cells.setdefault(f"`{policy}`", {})
        line[family] = tally
        if only:
            line[ALONE] = family
    families = dict.fromkeys(family for _, family, *_ in families_of(results))
    return markdown_table(
        ["policy", *families, ALONE],
        [
            [of, *(line.get(f, "-") for f in families), line.get(ALONE, "")]
            for of, line in cells.items()
        ],
    )


def main(results: tyro.conf.Positional[Path]) -> None:
    """Write the tables of a results file into README.md and docs/board.md.

    Args:
        results: Results file of an evaluation.
    """
    try:
        found = read_results(results)
        tables = board(found)
        origin = made_from(filled("docs/board.md", board=tables)[1])
        pages = [
            filled("README.md", results=families_side_by_side(found)),
            filled("docs/board.md", board=f"{tables}\n\n{origin}"),
        ]
    except (OSError, ValueError) as reason:
        sys.exit(f"{reason}")
    for path, text in pages:
        write_beside(path, [text.encode()])
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    tyro.cli(main)
