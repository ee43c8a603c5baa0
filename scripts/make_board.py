"""Write the tables and the picture of results files into README.md and docs/board.md."""

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
from laps_env.report.picture import draw_picture
from laps_env.report.tables import families_of, markdown_table
from laps_env.report.verdict import told
from laps_env.utils.files import write_beside
from laps_env.workloads.predictors import RECORDED

#: Policies of the tables that have not room for all, where the results have them.
MAIN_POLICIES = (
    "fcfs",
    "sjf",
    "las_tuned",
    "boost_tuned",
    "tie_tuned",
    "laps_sd",
    "gittins_tuned",
    "learned",
    "learned_joint",
    "oracle_srpt",
)
#: Load of these tables.
RESULTS_LOAD = 0.9
ALONE = "wins in one alone"
#: Scenario whose own frontier is shown.
RESULTS_SCENARIO = "mixed-serial-8b"


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


def board(results: Results, limited: Results) -> str:
    """All policies over all places, by family and by limits; the main ones by scenario."""
    loads = " and ".join(dict.fromkeys(str(row.load) for row in results.rows))
    at_load = [row for row in results.rows if row.load == RESULTS_LOAD]
    by_family = {
        family: list(rows)
        for family, rows in groupby(
            sorted(at_load, key=lambda row: (not row.family.startswith("recorded"), row.family)),
            key=lambda row: row.family,
        )
    }
    return "\n\n".join(
        [
            measured_on(results, loads),
            leaderboard_table(leaderboard([results])),
            "## The frontier",
            f"Load {RESULTS_LOAD}; dominated policies are dim, and their names are in the tables.",
            "![p99 latency against mean latency](results.png)",
            *(frontier_table(family, rows, results) for family, rows in by_family.items()),
            *(
                frontier_table(scenario, [r for r in at_load if r.scenario == scenario], results)
                for scenario in dict.fromkeys(row.scenario for row in at_load)
                if scenario == RESULTS_SCENARIO
            ),
            "## Limits kept",
            limits_table(limited),
            "## Scenario by scenario",
            f"At load {RESULTS_LOAD}: first mean latency / that of `{results.reference}` (95 % "
            "bootstrap interval over workloads), then p99 latency in seconds (mean over workloads) "
            f"/ gap closed, from 0 = `{results.reference}` to 1 = `{results.oracle}` (n/a: too "
            "small a gap to divide).",
            *(family_tables(family, rows, results.reference) for family, rows in by_family.items()),
            "Scenarios and loads in which a policy's mean latency is better than / tied with / "
            f"worse than that of `{results.reference}` (95 % interval), by family:",
            standing_table(results),
        ]
    )


def frontier_table(name: str, rows: list[Row], results: Results) -> str:
    """Every policy over the scenarios of one family, or in one."""
    count = len({row.scenario for row in rows})
    table = leaderboard_table(leaderboard([replace(results, rows=rows)]))
    title = name if name == rows[0].scenario else f"{name[0].upper()}{name[1:]}"
    return f"**{title}**, {count} scenario{'s' * (count > 1)}:\n\n{table}"


def limits_table(results: Results) -> str:
    """Policies by the share of limits that they kept at the load of the tables."""
    rows = [row for row in results.rows if row.load == RESULTS_LOAD]
    first = rows[0]
    cells = [
        [
            f"`{row.policy}`",
            told(row.slo_attainment or 0, row.slo_attainment_ci95, 3),
            told(row.goodput_rps or 0, row.goodput_rps_ci95),
            f"{row.mean_latency_s:.2f}",
            f"{row.p99_latency_s:.2f}",
            f"{row.p99_ttft_s:.2f}",
            f"{1000 * (row.p99_tpot_s or 0):.0f}",
            f"{row.longest_stall_s:.1f}",
        ]
        for row in sorted(rows, key=lambda row: -(row.slo_attainment or 0))
    ]
    headings = ["policy", "limits kept", "goodput, 1/s", "mean, s", "p99, s", "p99 first token, s"]
    table = markdown_table([*headings, "p99 per token, ms", "longest stall, s"], cells)
    return f"{first.scenario}, load {first.load}:\n\n{table}"


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
    kind = "of a length model" if error == RECORDED else f"with an error of sd {error} (log)"
    title = f"**{family[0].upper()}{family[1:]}**, length predictions {kind}:"
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


def main(results: tyro.conf.Positional[Path], limited: tyro.conf.Positional[Path]) -> None:
    """Write the tables and the picture into README.md and docs/board.md.

    Args:
        results: Results file of `make board`.
        limited: Its file of the scenario with limits.
    """
    try:
        found = read_results(results)
        tables = board(found, read_results(limited))
        origin = made_from(filled("docs/board.md", board=tables)[1])
        pages = [
            filled("README.md", results=families_side_by_side(found)),
            filled("docs/board.md", board=f"{tables}\n\n{origin}"),
        ]
        at_load = [row for row in found.rows if row.load == RESULTS_LOAD]
        draw_picture(replace(found, rows=at_load), ROOT / "docs" / "results.png")
    except (OSError, ValueError) as reason:
        sys.exit(f"{reason}")
    for path, text in pages:
        write_beside(path, [text.encode()])
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    tyro.cli(main)
