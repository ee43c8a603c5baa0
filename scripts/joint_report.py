"""What deciding order and drafts together is worth; the table of docs/learned.md.

*Test* workloads: mean and p99 latency over those of `laps_sd_tuned`, which drafts the
scenario's fixed length; then the mean of the learned scheduler over that of the best hand rule with
the same information and decisions, scenario by scenario, and their geometric mean. Beside it what
is there to be won by order: who knows the lengths, with the same drafts, over that hand rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro

from laps_env.evaluation.grid import Grid
from laps_env.evaluation.runner import Evaluation
from laps_env.evaluation.statistics import nested_ratio_with_interval, ratio_with_interval
from laps_env.report.tables import markdown_table
from laps_env.report.verdict import told

REFERENCE = "laps_sd_tuned"
#: Rules that know what `learned_joint` knows, drafts by confidences among it.
HAND = tuple(
    f"{rule}_tuned+confidence"
    for rule in ("bayes_srpt", "bayes_running", "gittins", "gittins_running")
)
CLAIRVOYANT = "oracle_srpt+confidence"


@dataclass(frozen=True)
class Options:
    """What is compared."""

    models: tuple[str, ...] = ("learned_joint",)
    """Scheduler, or folders of one that was trained with several seeds, of which the first is shown
    and all are compared with the hand rule (bootstrap over seeds and workloads)."""
    scenarios: tuple[str, ...] = (
        *("drift-serial-8b", "drift-batch8-8b", "pressure-batch8-8b", "mixed-batch8-8b"),
        *("limits-batch8-8b", "mixed-serial-8b", "mixed-serial-135m", "mixed-batch8-135m"),
    )
    """Scenarios."""
    load: float = 0.9
    """Share of saturation."""


def main() -> None:
    """Print the table."""
    options = tyro.cli(Options, description=__doc__)
    lines, ratios = [], []
    for scenario in options.scenarios:
        line, ratio = compared(options.models, scenario, options.load)
        lines.append(line)
        ratios.append(ratio)
    names = [f"`{name}`" for name in (*HAND, options.models[0])]
    columns = ["scenario", *names, "p99", "over the best hand rule", "p99", f"`{CLAIRVOYANT}`"]
    print(markdown_table(columns, lines))
    print(f"\nGeometric mean over the best hand rules: {np.exp(np.mean(np.log(ratios))):.3f}.")


def compared(models: tuple[str, ...], scenario: str, load: float) -> tuple[list[str], float]:
    """A line of the table, and the ratio of means to the best hand rule."""
    policies = (REFERENCE, *HAND, *models, CLAIRVOYANT)
    model = models[0]
    evaluation = Evaluation(Grid(policies, (scenario,), (load,), reference=REFERENCE))
    evaluation.run()
    rows = {row.policy: row for row in evaluation.results().rows}
    means = {name: np.array(rows[name].episode_mean_latency_s) for name in policies}
    tails = {name: rows[name].p99_latency_s for name in policies}
    shown = [told(rows[n].ratio_to_reference, rows[n].ratio_ci95, 3) for n in (*HAND, model)]
    best = min(HAND, key=lambda name: rows[name].ratio_to_reference)
    if len(models) == 1:
        ratio, interval = ratio_with_interval(means[model], means[best])
    else:
        ours = np.stack([means[name] for name in models])
        ratio, interval = nested_ratio_with_interval(ours, means[best])
    ideal = ratio_with_interval(means[CLAIRVOYANT], means[best])
    return [
        f"`{scenario}`",
        *shown,
        f"{tails[model] / tails[REFERENCE]:.2f}",
        f"{told(ratio, interval, 3)} of `{best}`",
        f"{tails[model] / tails[best]:.2f}",
        told(*ideal, 3),
    ], ratio


if __name__ == "__main__":
    main()
