"""``laps-env score``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import tyro

from laps_env.cli.command import Command
from laps_env.utils.checks import check_positive


@dataclass(frozen=True)
class Score(Command):
    """Score a rule that nobody has read, for a search that writes rules: JSON with a number.

    The file may do nothing but define a rule: its syntax is checked before it is imported, and it
    runs in a process of its own. Workloads are of the validation split; with a seed that only you
    know nothing can be fitted to them. What wins is then measured by laps-env evaluate.

    $ laps-env score my_rule.py:SPEC
    $ laps-env score my_rule.py:SPEC --scenario limits-batch8-8b --goal slo_attainment --seed 90210
    """

    rule: tyro.conf.Positional[str]
    """File and name of the rule."""
    scenario: tuple[str, ...] = ("mixed-serial-8b", "mixed-batch8-135m")
    """Names of scenarios."""
    loads: tuple[float, ...] = (0.9,)
    """Shares of saturation."""
    goal: Literal["mean_latency", "p99_latency", "slo_attainment"] = "mean_latency"
    """What the score is: latency over the reference's, or the share of limits missed."""
    episodes: int = 8
    """Workloads per scenario and load."""
    requests: int = 400
    """Requests per workload."""
    seed: int = 0
    """First seed of the validation split."""
    seconds: float = 120.0
    """Time that it may take, the rule's compilation included."""

    def run(self) -> int:
        """Print the score; status 1 where there is none."""
        from laps_env.evaluation.grid import Grid
        from laps_env.report.score import score

        check_positive("seconds", self.seconds)
        grid = Grid(
            policies=(self.rule,),
            scenarios=self.scenario,
            loads=self.loads,
            episodes=self.episodes,
            num_requests=self.requests,
            first_seed=self.seed,
            split="validation",
        )
        found = score(grid, self.goal, self.seconds)
        print(json.dumps(found))
        return 0 if found["score"] is not None else 1
