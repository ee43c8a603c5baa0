"""Tuning of many rules on many scenarios: a long job that goes on where it was cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from laps_env.catalog import OVERALL, list_scenarios
from laps_env.evaluation.objective import Objective, Task
from laps_env.evaluation.tuning import (
    Found,
    Score,
    Scores,
    Settings,
    TuningBudget,
    best_of,
    defaults,
    tune,
)
from laps_env.policies import make, with_settings
from laps_env.sim import SIMULATOR_VERSION
from laps_env.utils.files import write_beside
from laps_env.utils.journal import Journal
from laps_env.workloads.scenarios import get_scenario

#: What scores are relative to: LAPS-SD with its defaults.
REFERENCE = "laps_sd"


class Tuned(TypedDict):
    """A line of the journal: a rule, told by its code, on a scenario."""

    rule: str
    digest: str
    scenario: str
    found: dict[str, Found]


def tune_all(
    budget: TuningBudget,
    output: Path,
    rules: Sequence[str],
    scenarios: Sequence[str],
    journal_path: Path,
) -> dict[str, dict[str, dict[str, Found]]]:
    """Tune rules on scenarios, then write the file in one move.

    Where some are left out, the file keeps what it has of them. Where no scenario is left out,
    each rule also gets the settings that are best on average over all, of its defaults and its
    winners.

    Args:
        budget: Budget of each rule.
        output: JSON file of settings and scores.
        rules: Names of rules with parameters, or files of such.
        scenarios: Names of scenarios.
        journal_path: File of the finished pairs, from which a cut-off job goes on.

    Returns:
        What was found, by rule, scenario and objective.

    Raises:
        ValueError: The journal is of another budget or simulator.
    """
    job = {"job": "tuning", "budget": asdict(budget), "simulator": SIMULATOR_VERSION}
    digests = {rule: make(rule).digest for rule in rules}
    with Journal(journal_path, job, Tuned) as journal, ThreadPoolExecutor(os.cpu_count()) as pool:
        kept = {
            (entry["rule"], entry["scenario"]): entry["found"]
            for entry in journal.entries
            if entry["digest"] == digests.get(entry["rule"])
        }
        found: dict[str, dict[str, dict[str, Found]]] = {rule: {} for rule in rules}
        for scenario in scenarios:
            todo = [rule for rule in rules if (rule, scenario) not in kept]
            for rule, best in zip(todo, _tuned_on(scenario, todo, budget, pool), strict=True):
                kept[rule, scenario] = best
                entry = {"rule": rule, "digest": digests[rule], "scenario": scenario}
                journal.add({**entry, "found": best})
                _tell(rule, scenario, best)
            for rule in rules:
                found[rule][scenario] = kept[rule, scenario]
        if list(scenarios) == list_scenarios():
            for rule, best in _tuned_over_all(found, budget, pool).items():
                found[rule][OVERALL] = best
        _write(output, budget, found)
        journal.remove()
    return found


def _objective(scenario: str, budget: TuningBudget) -> Objective:
    traffic = [(get_scenario(scenario), None)]
    return Objective(traffic, budget.loads, budget.num_requests, reference=REFERENCE)


def _tasks(objective: Objective, seeds: Sequence[int], pool: ThreadPoolExecutor) -> list[Task]:
    return [task for seed in seeds for task in objective.tasks("validation", seed, pool)]


def _score_of(rule: str, objective: Objective, tasks: Sequence[Task]) -> Score:
    """The scores of a rule's settings on the tasks of one scenario."""
    (policy,) = objective.make(rule)

    def score(settings: Settings) -> Scores:
        return objective.scores([with_settings(policy, **settings)], tasks)

    return score


def _tuned_on(
    scenario: str, rules: Sequence[str], budget: TuningBudget, pool: ThreadPoolExecutor
) -> Iterable[dict[str, Found]]:
    """The best settings of each rule on a scenario, one after the other."""
    if not rules:
        return ()
    objective = _objective(scenario, budget)
    tasks = _tasks(objective, budget.seeds, pool)
    final = _tasks(objective, budget.final_seeds, pool)

    def tuned(rule: str) -> dict[str, Found]:
        score = _score_of(rule, objective, tasks)
        return tune(make(rule).spec, score, _score_of(rule, objective, final), budget)

    return pool.map(tuned, rules)


def _tuned_over_all(
    found: Mapping[str, Mapping[str, Mapping[str, Found]]],
    budget: TuningBudget,
    pool: ThreadPoolExecutor,
) -> dict[str, dict[str, Found]]:
    """Of its defaults and its winners, the settings of each rule that are best over all scenarios.

    A score is the mean over the scenarios that have data for the objective.
    """
    short = replace(budget, seeds=budget.overall_seeds)
    objectives = {scenario: _objective(scenario, short) for scenario in list_scenarios()}
    tasks = {s: _tasks(objective, short.seeds, pool) for s, objective in objectives.items()}

    def over_all(rule: str) -> dict[str, Found]:
        scores = [_score_of(rule, objectives[s], tasks[s]) for s in objectives]

        def score(settings: Settings) -> Scores:
            given = [one(settings) for one in scores]
            names = dict.fromkeys(name for each in given for name in each)
            return {n: float(np.mean([each[n] for each in given if n in each])) for n in names}

        finalists = [defaults(make(rule).spec)]
        for by_objective in found[rule].values():
            for best in by_objective.values():
                if best["settings"] not in finalists:
                    finalists.append(best["settings"])
        return best_of(finalists, score)

    return dict(zip(found, pool.map(over_all, found), strict=True))


def _tell(rule: str, scenario: str, found: dict[str, Found]) -> None:
    """Print what a rule won on a scenario."""
    won = (f"{o} {f['default_score']:.3f} -> {f['score']:.3f}" for o, f in found.items())
    print(f"{scenario:22} {rule:16} {', '.join(won)}", flush=True)


def _write(
    output: Path,
    budget: TuningBudget,
    found: Mapping[str, Mapping[str, Mapping[str, Found]]],
) -> None:
    """The tuning results beside those that are there, written beside and renamed."""
    document: dict[str, Any] = {"settings": {}, "scores": {}, "trials": {}}
    if output.exists():
        document |= json.loads(output.read_text(encoding="utf-8"))
    for rule, scenarios in found.items():
        for scenario, by_objective in scenarios.items():
            trials = f"{budget.sampled} + {budget.refined} for each objective"
            document["trials"].setdefault(rule, {})[scenario] = trials
            for objective, best in by_objective.items():
                for name, value in (
                    ("settings", best["settings"]),
                    ("scores", [best["default_score"], best["score"]]),
                ):
                    by_rule = document[name].setdefault(objective, {})
                    by_rule.setdefault(rule, {})[scenario] = value
    document |= {
        "made_by": "laps-env tune",
        "date": datetime.now(UTC).date().isoformat(),
        "scores_are": "of the default setting and of the chosen one: latency / default LAPS-SD's, "
        "or share of limits missed, on the validation split",
    }
    write_beside(output, [(json.dumps(document, indent=1) + "\n").encode()])
