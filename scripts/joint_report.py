"""What deciding order and drafts together is worth; the table of docs/learned.md.

*Test* workloads. Mean and p99 latency over those of `laps_sd_tuned`, which drafts the scenario's
fixed length; then those of the learned scheduler over those of the best hand rule with the same
information and decisions, and its geometric mean over scenarios. Beside it what is there to be won
by order: who knows the lengths, with the same drafts, over that hand rule.
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
from laps_env.workloads.scenarios import list_scenarios

REFERENCE = "laps_sd_tuned"
#: Rules that know what `learned_joint` knows, drafts by confidences among it.
HAND = tuple(
    f"{rule}_tuned+confidence"
    for rule in ("bayes_srpt", "bayes_running", "gittins", "gittins_running")
)
CLAIRVOYANT = "oracle_srpt+confidence"
#: Words in the names of the scenarios where more than the order of a serial server counts.
HARD = ("drift", "pressure", "batch8")


@dataclass(frozen=True)
class Options:
    """What is compared."""

    models: tuple[str, ...] = ("learned_joint",)
    """Scheduler, or folders of one that was trained with several seeds, of which the first is shown
    and all are compared with the hand rule (bootstrap over seeds and workloads)."""
    scenarios: tuple[str, ...] = tuple(name for name in list_scenarios() if name != "demo")
    """Scenarios."""
    load: float = 0.9
    """Share of saturation."""


def main() -> None:
    """Print the table."""
    options = tyro.cli(Options, description=__doc__)
    lines, ratios = [], {}
    for scenario in options.scenarios:
        line, ratios[scenario] = compared(options.models, scenario, options.load)
        lines.append(line)
    rule = ["best hand rule", "mean", "p99"]
    ours = [f"`{options.models[0]}`", "p99", "over the hand rule", "p99"]
    print(markdown_table(["scenario", *rule, *ours, f"`{CLAIRVOYANT}`"], lines))
    hard = [name for name in ratios if any(word in name for word in HARD)]
    print("\nGeometric mean over the best hand rules:")
    for group, names in (("drift, pressure, batches of eight", hard), ("all", list(ratios))):
        if names:
            mean = np.exp(np.mean(np.log([ratios[name] for name in names])))
            print(f"{mean:.3f} ({group}, {len(names)} scenarios)")


def compared(models: tuple[str, ...], scenario: str, load: float) -> tuple[list[str], float]:
    """A line of the table, and the ratio of means to the best hand rule."""
    policies = (REFERENCE, *HAND, *models, CLAIRVOYANT)
    model = models[0]
    evaluation = Evaluation(Grid(policies, (scenario,), (load,), reference=REFERENCE))
    evaluation.run()
    rows = {row.policy: row for row in evaluation.results().rows}
    means = {name: np.array(rows[name].episode_mean_latency_s) for name in policies}
    tails = {name: rows[name].p99_latency_s for name in policies}
    best = min(HAND, key=lambda name: rows[name].ratio_to_reference)
    if len(models) == 1:
        ratio, interval = ratio_with_interval(means[model], means[best])
    else:
        ours = np.stack([means[name] for name in models])
        ratio, interval = nested_ratio_with_interval(ours, means[best])
    shown = {n: told(rows[n].ratio_to_reference, rows[n].ratio_ci95, 3) for n in (best, model)}
    ideal = ratio_with_interval(means[CLAIRVOYANT], means[best])
    return [
        f"`{scenario}`",
        f"`{best}`",
        shown[best],
        f"{tails[best] / tails[REFERENCE]:.2f}",
        shown[model],
        f"{tails[model] / tails[REFERENCE]:.2f}",
        told(ratio, interval, 3),
        f"{tails[model] / tails[best]:.2f}",
        told(*ideal, 3),
    ], ratio


if __name__ == "__main__":
    main()
