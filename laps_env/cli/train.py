"""``laps-env train``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Self

import tyro

from laps_env.agents.options import Budget, IndexOptions, PPOOptions, usual_options
from laps_env.cli.command import Command, Count, Number, progress


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train a scheduler: a network by PPO, or an index by evolution.

    The same command goes on where a run was cut off, or further with a larger budget; a folder of
    another run is refused. The folder is a policy wherever a policy is.

    $ laps-env train --scenario mixed-serial-135m --minutes 15 --out runs/demo
    $ laps-env train index --blocks 20 --out runs/index
    $ laps-env evaluate --policies laps_sd,runs/demo --scenario mixed-serial-135m --loads 0.9
    """

    algorithm: (
        Annotated[PPOOptions, tyro.conf.subcommand("ppo")]
        | Annotated[IndexOptions, tyro.conf.subcommand("index")]
    ) = field(default_factory=PPOOptions)
    out: Path
    """Folder of the run."""
    minutes: Number = None
    """Budget in minutes of work."""
    blocks: Count = None
    """Budget in blocks, instead of minutes."""

    resumes: ClassVar[bool] = True

    def usual(self) -> Self:
        """The hyper-parameters of the scenarios."""
        scenario = self.algorithm.scenario
        usual = usual_options(type(self.algorithm), scenario=scenario)
        return replace(self, algorithm=usual)

    def run(self) -> int:
        """Train until the budget is spent."""
        from laps_env.agents.runs import train

        budget = Budget(self.minutes, self.blocks)
        with progress(1.0, bar_format="{percentage:3.0f}%|{bar}| {elapsed}") as bar:

            def at(share: float, text: str) -> None:
                bar.write(text, file=sys.stdout)
                bar.update(min(share, 1.0) - bar.n)

            train(self.algorithm, self.out, budget, at)
        return 0
