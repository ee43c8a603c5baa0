"""``laps-env tune``."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import ClassVar

from laps_env.catalog import (
    check_scenarios,
    is_scenario_file,
    list_rules,
    list_scenarios,
    tuned_file,
)
from laps_env.cli.command import Command
from laps_env.utils.checks import check_count, check_list, check_one_of
from laps_env.utils.files import outputs

JOURNAL = Path("runs/tune.jsonl")


@dataclass(frozen=True)
class Tune(Command):
    """Choose the parameters of rules, on the validation split.

    For the mean and the 99th percentile of the latency, and for the limits kept where a scenario
    has limits. Finished pairs of rule and scenario are kept in runs/tune.jsonl, from which a
    cut-off run goes on. An output that is there keeps what it has of other rules and scenarios.

    $ laps-env tune --rules my_rule.py:spec --scenarios mixed-serial-135m --out tuned.json
    $ laps-env tune --overwrite
    """

    trials: int = 64
    """Settings per rule and scenario, half of them space-filling, a quarter near the best for each
    objective."""
    rules: tuple[str, ...] = ()
    """Names of rules, or your own rules (rule.py:spec); by default all that have parameters."""
    scenarios: tuple[str, ...] = tuple(list_scenarios())
    """Names of scenarios; settings over all are chosen where none is left out."""
    out: Path = field(default_factory=tuned_file)
    """Settings and scores as JSON; by default what the policies named _tuned... take."""
    overwrite: bool = False
    """Replace these rules and scenarios in an output that is there."""

    resumes: ClassVar[bool] = True

    def run(self) -> int:
        """Tune, write, and print what an own rule won."""
        from laps_env.evaluation.tuning import TuningBudget
        from laps_env.evaluation.tuning_job import tune_all
        from laps_env.policies._registry import get_rule

        check_count("trials", self.trials, least=4)
        check_list("scenarios", self.scenarios)
        check_scenarios("scenarios", self.scenarios)
        known = [name for name in list_rules() if get_rule(name).parameters]
        rules = self.rules or tuple(known)
        own = [rule for rule in rules if rule not in known]
        self._check_own(own, known)
        with outputs(self.out, overwrite=self.overwrite):
            JOURNAL.parent.mkdir(exist_ok=True)
            budget = TuningBudget(sampled=self.trials // 2, refined=self.trials // 4)
            found = tune_all(budget, self.out, rules, self.scenarios, JOURNAL)
        for rule, scenario in product(rules, self.scenarios):
            if rule in own or is_scenario_file(scenario):
                for objective, best in found[rule][scenario].items():
                    settings = ",".join(f"{k}={v:g}" for k, v in best["settings"].items())
                    print(f"{scenario}, {objective}: {rule}:{settings}")
        return 0

    def _check_own(self, own: list[str], known: list[str]) -> None:
        """Whether other rules than the package's are files of rules with parameters."""
        from laps_env.policies import make
        from laps_env.policies.base.rule_from_file import is_rule_file

        for rule in own:
            if not is_rule_file(rule):
                check_one_of("rules", rule, known)
            if not make(rule).spec.parameters:
                raise ValueError(f"{rule}: expected a rule with parameters, got one without")
        if self.out == tuned_file() and (own or any(map(is_scenario_file, self.scenarios))):
            raise ValueError(
                "out: expected a file of your own for your own rules and scenarios, got none"
            )
