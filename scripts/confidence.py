"""What the draft's confidences are worth: mean latency and p99 with them over without.

The tables of docs/physics.md. *Test* workloads, load 0.9; recorded confidences, and generated ones,
which are assumed: once as informative as recorded ones, once worth half as much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import tyro

from laps_env.evaluation.grid import Grid
from laps_env.evaluation.replay import Replay
from laps_env.evaluation.results import Row
from laps_env.evaluation.runner import Evaluation
from laps_env.report.tables import markdown_table
from laps_env.report.verdict import told
from laps_env.workloads.confidence import CONCENTRATION
from laps_env.workloads.requests import GeneratedRequests
from laps_env.workloads.scenarios import Scenario, get_scenario, list_scenarios

RULES = ("laps_sd_tuned", "gittins_tuned")
HEADINGS = (
    "scenario",
    "draft length",
    *(f"`{rule}`: {what}" for rule in RULES for what in ("mean", "p99")),
    "`laps_sd_tuned`: mean, worth half",
)


@dataclass(frozen=True)
class Options:
    """What is compared."""

    draft_rule: Literal["confidence", "topk"] = "confidence"
    """Rule by confidences: drafts that stop, or the surest tokens verified."""
    scenarios: tuple[str, ...] = tuple(list_scenarios())
    """Scenarios."""


def main() -> None:
    """Print the table."""
    options = tyro.cli(Options, description=__doc__)
    rows = [cells(get_scenario(name), options.draft_rule) for name in options.scenarios]
    print(markdown_table(HEADINGS, rows))


def cells(scenario: Scenario, draft_rule: str) -> list[object]:
    """A line of the table."""
    rule, found = compare(scenario, draft_rule)
    values, half = [cell for name in RULES for cell in found[name]], "-"
    if isinstance(scenario.requests, GeneratedRequests):
        vague = replace(scenario.requests, concentration=2 * CONCENTRATION)
        half = compare(replace(scenario, requests=vague), draft_rule)[1][RULES[0]][0]
    return [f"`{scenario.name}`", rule, *values, half]


def compare(scenario: Scenario, draft_rule: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """The draft length that was chosen; mean and p99 of each rule with it over without."""
    scenario = replace(scenario, name=f"{scenario.name} by confidences")
    found, chosen = {}, ""
    for rule in RULES:
        names = (rule, f"{rule}+{draft_rule}")
        grid = Grid(names, (scenario,), (0.9,), reference=rule)
        chosen = str(Replay().setting(grid, scenario).policies[names[1]].draft_length)
        evaluation = Evaluation(grid)
        evaluation.run()
        rows = {row.policy: row for row in evaluation.results().rows}
        found[rule] = ratios(rows[names[1]], rows[rule])
    return chosen, found


def ratios(row: Row, base: Row) -> tuple[str, str]:
    """Mean with its interval, and p99, over those of another row."""
    return (
        told(row.ratio_to_reference, row.ratio_ci95, 3),
        f"{row.p99_latency_s / base.p99_latency_s:.2f}",
    )


if __name__ == "__main__":
    main()
