"""``laps-env tune``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from laps_env.catalog import list_scenarios, tuned_file
from laps_env.cli.command import Command
from laps_env.utils.checks import check_count, check_one_of
from laps_env.utils.files import outputs

JOURNAL = Path("runs/tune.jsonl")


@dataclass(frozen=True)
class Tune(Command):
    """Choose the parameters of every rule again, on the validation split.

    Finished pairs of rule and scenario are kept in runs/tune.jsonl, from which a cut-off run goes
    on. An output that is there keeps what it has of other scenarios.

    $ laps-env tune --scenarios mixed-serial-135m --out tuned.json
    $ laps-env tune --overwrite
    """

    trials: int = 64
    """Settings per rule and scenario."""
    out: Path = field(default_factory=tuned_file)
    """Settings and scores as JSON; by default what the policies named _tuned take."""
    scenarios: tuple[str, ...] = tuple(list_scenarios())
    """Names of scenarios; settings over all are chosen where none is left out."""
    overwrite: bool = False
    """Replace these scenarios in an output that is there."""

    resumes: ClassVar[bool] = True

    def run(self) -> int:
        """Tune and write."""
        from laps_env.evaluation.tuning import TuningBudget, tune_all

        check_count("trials", self.trials, least=2)
        if not self.scenarios:
            raise ValueError("scenarios: expected at least one, got none")
        for name in self.scenarios:
            check_one_of("scenarios", name, list_scenarios())
        with outputs(self.out, overwrite=self.overwrite):
            JOURNAL.parent.mkdir(exist_ok=True)
            budget = TuningBudget(trials=self.trials, sampled=self.trials // 2)
            tune_all(budget, self.out, list(self.scenarios), JOURNAL)
        return 0
