"""``laps-env scenario``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from laps_env.catalog import list_scenarios, scenario_path
from laps_env.cli.command import Command
from laps_env.utils.checks import check_one_of


@dataclass(frozen=True)
class CheckFile:
    """Read a scenario's file with all that it names, and say what it describes.

    $ laps-env scenario check mine.toml
    """

    file: tyro.conf.Positional[Path]
    """Scenario, a TOML file."""

    def run(self) -> int:
        """Read, describe, compare its saturation with a measurement."""
        from laps_env.utils.splits import Split
        from laps_env.workloads.arrivals import RecordedArrivals
        from laps_env.workloads.numbers import numbers_of
        from laps_env.workloads.scenario_file import read_scenario

        scenario = read_scenario(self.file)
        measured, server = scenario.with_saturation(), scenario.server
        numbers, arrivals = numbers_of(scenario), scenario.arrivals
        print(f"{scenario.name}: {scenario.description or 'no description'}")
        print(
            f"server: batches of up to {server.batch_size}, draft length {server.draft_length}, "
            f"{server.pool_tokens:,} tokens of cache"
        )
        print(f"costs: {server.cost.source or 'constants of the file'}")
        print(
            f"requests: {scenario.requests.name}; {', '.join(scenario.requests.categories)}; on "
            f"average {numbers.prompt_tokens:.0f} prompt and {numbers.output_tokens:.0f} output "
            f"tokens, {_per_round(numbers.tokens_per_round)}predictor error "
            f"{scenario.error_in_force(None)}"
        )
        if isinstance(arrivals, RecordedArrivals):
            rate = 1 / arrivals.mean_gap_s(Split.TEST)
            print(
                f"arrivals: {arrivals.trace.arrival_ns.size:,} of {arrivals.trace.source}, "
                f"{rate:.4g} requests/s in its second half: load "
                f"{rate / measured.saturation('test'):.3f} as recorded"
            )
        else:
            print(f"arrivals: {arrivals}")
        print("\n[saturation_rps]  # requests per second, as measured now")
        for split, found in measured.saturation_rps.items():
            print(f"{split} = {found!r}")
        if (said := scenario.saturation_rps) != measured.saturation_rps:
            raise ValueError(
                f"{self.file}: saturation_rps: expected the above, got {said}: take it, or leave "
                "the table out"
            )
        return 0


def _per_round(tokens: float) -> str:
    """Tokens of a round, where the draft length is fixed."""
    return "" if math.isnan(tokens) else f"{tokens:.2f} tokens a round, "


@dataclass(frozen=True)
class Show:
    """Print the file of a scenario of the package, to begin one of your own with.

    $ laps-env scenario show mixed-batch8-8b > mine.toml
    """

    name: tyro.conf.Positional[str]
    """Name of the scenario."""

    def run(self) -> int:
        """Print it."""
        check_one_of("scenario", self.name, list_scenarios())
        print(scenario_path(self.name).read_text(encoding="utf-8"), end="")
        return 0


@dataclass(frozen=True)
class Scenario(Command):
    """Check a scenario's file, or print one of the package.

    $ laps-env scenario show mixed-batch8-8b > mine.toml
    $ laps-env scenario check mine.toml
    $ laps-env evaluate --scenario mine.toml --loads recorded
    """

    action: (
        Annotated[CheckFile, tyro.conf.subcommand("check")]
        | Annotated[Show, tyro.conf.subcommand("show")]
    )

    def run(self) -> int:
        """Do what is asked for."""
        return self.action.run()
