"""What deciding order and drafts together is worth; the table of docs/learned.md.

*Test* workloads, load 0.9: mean and p99 latency over those of `laps_sd_tuned`, which drafts the
scenario's fixed length; then the mean of the learned scheduler over that of the best hand rule with
the same information and decisions, scenario by scenario, and their geometric mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro

from laps_env.evaluation.grid import Grid
from laps_env.evaluation.runner import Evaluation
from laps_env.evaluation.statistics import ratio_with_interval
from laps_env.report.tables import markdown_table
from laps_env.report.verdict import told

REFERENCE = "laps_sd_tuned"
#: Rules that know what `learned_joint` knows, drafts by confidences among it.
HAND = tuple(
    f"{rule}_tuned+confidence"
    for rule in ("bayes_srpt", "bayes_running", "gittins", "gittins_running")
)


@dataclass(frozen=True)
class Options:
    """What is compared."""

    model: str = "learned_joint"
    """Scheduler, or the folder of one."""
    scenarios: tuple[str, ...] = (
        *("drift-serial-8b", "drift-batch8-8b", "pressure-batch8-8b", "mixed-batch8-8b"),
        *("limits-batch8-8b", "mixed-serial-8b", "mixed-serial-135m", "mixed-batch8-135m"),
    )
    """Scenarios."""


def main() -> None:
    """Print the table."""
    options = tyro.cli(Options, description=__doc__)
    lines, ratios = [], []
    for scenario in options.scenarios:
        line, ratio = compared(options.model, scenario)
        lines.append(line)
        ratios.append(ratio)
    names = [f"`{name}`" for name in (*HAND, options.model)]
    columns = ["scenario", *names, "p99", "over the best hand rule", "p99"]
    print(markdown_table(columns, lines))
    print(f"\nGeometric mean over the best hand rules: {np.exp(np.mean(np.log(ratios))):.3f}.")


def compared(model: str, scenario: str) -> tuple[list[str], float]:
    """A line of the table, and the ratio of means to the best hand rule."""
    policies = (REFERENCE, *HAND, model)
    evaluation = Evaluation(Grid(policies, (scenario,), (0.9,), reference=REFERENCE))
    evaluation.run()
    rows = {row.policy: row for row in evaluation.results().rows}
    means = {name: np.array(rows[name].episode_mean_latency_s) for name in policies}
    tails = {name: rows[name].p99_latency_s for name in policies}
    shown = [told(rows[n].ratio_to_reference, rows[n].ratio_ci95, 3) for n in (*HAND, model)]
    best = min(HAND, key=lambda name: rows[name].ratio_to_reference)
    ratio, interval = ratio_with_interval(means[model], means[best])
    return [
        f"`{scenario}`",
        *shown,
        f"{tails[model] / tails[REFERENCE]:.2f}",
        f"{told(ratio, interval, 3)} of `{best}`",
        f"{tails[model] / tails[best]:.2f}",
    ], ratio


if __name__ == "__main__":
    main()
