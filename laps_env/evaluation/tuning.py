"""Tuning of every rule that has parameters, each with the same budget, on the *validation* split.

For each (rule, scenario): the default setting, then a space-filling sample of the parameters'
ranges, then rounds of perturbations of the best so far, `TuningBudget.trials` settings in all. The
best of them and the default then meet on other workloads of the *validation* split, because the
best of many on few workloads owes some of its lead to these. A setting is judged by its mean
latency over the default LAPS-SD's on the same workloads, the geometric mean over them. The setting
named "all" is the one, among the defaults and every scenario's winner, that is best on average over
all scenarios, on the workloads before the final.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from laps_env.catalog import list_rules, list_scenarios
from laps_env.evaluation.objective import Objective, Task
from laps_env.policies import RuleSpec, with_settings
from laps_env.policies._registry import get_rule
from laps_env.sim import SIMULATOR_VERSION
from laps_env.utils.files import write_beside
from laps_env.utils.journal import Journal
from laps_env.workloads.scenarios import get_scenario


@dataclass(frozen=True)
class TuningBudget:
    """Settings and workloads that every rule is tuned with.

    Attributes:
        trials: Settings per rule and scenario, beside the default.
        sampled: Settings of the space-filling sample.
        refine_by: Settings of a round of perturbations.
        loads: Shares of saturation.
        seeds: Seeds of the workloads that all settings meet.
        finalists: Settings that meet in the final.
        final_seeds: Seeds of the final's workloads.
        num_requests: Requests of a workload.
    """

    trials: int = 64
    sampled: int = 32
    refine_by: int = 8
    loads: tuple[float, ...] = (0.7, 0.9)
    seeds: tuple[int, ...] = tuple(range(6))
    finalists: int = 8
    final_seeds: tuple[int, ...] = tuple(range(6, 30))
    num_requests: int = 1000


class Tuned(TypedDict):
    """A line of the journal: a rule on a scenario."""

    rule: str
    scenario: str
    settings: dict[str, float]
    score: float
    default_score: float


Settings = dict[str, float]
Score = Callable[[Settings], float]
"""Mean latency of a rule with these settings over the default LAPS-SD's; lower is better."""


def tasks_of(objective: Objective, seeds: Sequence[int], pool: ThreadPoolExecutor) -> list[Task]:
    """The workloads of these seeds of the *validation* split."""
    return [task for seed in seeds for task in objective.tasks("validation", seed, pool)]


def score_of(rule_name: str, objective: Objective, tasks: Sequence[Task]) -> Score:
    """The score of a rule's settings on the tasks of one scenario."""
    (policy,) = objective.make(rule_name)

    def score(settings: Settings) -> float:
        mean, _ = objective.log_ratios([with_settings(policy, **settings)], tasks)
        return float(np.exp(mean))

    return score


def defaults(spec: RuleSpec) -> Settings:
    """The default of each parameter."""
    return {p.name: float(p.default) for p in spec.parameters}


def to_settings(spec: RuleSpec, point: np.ndarray) -> Settings:
    """A point of the unit cube as parameter values."""
    settings = {}
    for parameter, u in zip(spec.parameters, point, strict=True):
        if parameter.log:
            value = parameter.low * (parameter.high / parameter.low) ** float(u)
        else:
            value = parameter.low + (parameter.high - parameter.low) * float(u)
        settings[parameter.name] = (
            float(round(value)) if parameter.integer else float(f"{value:.4g}")
        )
    return settings


def space_filling(spec: RuleSpec, count: int) -> np.ndarray:
    """A Latin hypercube sample of the unit cube, [count, parameters]."""
    rng = np.random.default_rng(0)
    strata = np.argsort(rng.random((len(spec.parameters), count)), axis=1).T
    return (strata + rng.random(strata.shape)) / count


def tune(spec: RuleSpec, score: Score, final: Score, budget: TuningBudget) -> dict[str, Any]:
    """The best setting of a rule within the budget, with its score in the final."""
    rng = np.random.default_rng(1)
    sampled = [(point, to_settings(spec, point)) for point in space_filling(spec, budget.sampled)]
    tried = [(score(settings), settings, point) for point, settings in sampled]
    width = 0.2
    while len(tried) < budget.trials - 1:  # the default is a trial too
        *_, centre = min(tried, key=lambda t: t[0])
        for _ in range(min(budget.refine_by, budget.trials - 1 - len(tried))):
            point = np.clip(centre + width * rng.standard_normal(len(spec.parameters)), 0, 1)
            settings = to_settings(spec, point)
            tried.append((score(settings), settings, point))
        width *= 0.6
    best_first = sorted(tried, key=lambda t: t[0])[: budget.finalists]
    return best_of([defaults(spec), *(settings for _, settings, _ in best_first)], final)


def best_of(finalists: list[Settings], score: Score) -> dict[str, Any]:
    """The best of some settings, of which the first is the default."""
    scores = [score(settings) for settings in finalists]
    best = int(np.argmin(scores))
    return {"settings": finalists[best], "score": scores[best], "default_score": scores[0]}


def tune_all(budget: TuningBudget, output: Path, scenarios: list[str], journal_path: Path) -> None:
    """Tune all rules on these scenarios, then write the file in one move.

    Where some scenarios are left out, the file keeps what it has of them, and of "all".

    Args:
        budget: Budget of each rule.
        output: JSON file of settings and scores.
        scenarios: Names of scenarios.
        journal_path: File of the finished pairs, from which a cut-off job goes on.

    Raises:
        ValueError: The journal is of another budget or of other code.
    """
    rules = {name: get_rule(name) for name in list_rules() if get_rule(name).parameters}
    job = {"job": "tuning", "budget": asdict(budget), "simulator": SIMULATOR_VERSION}
    with Journal(journal_path, job, Tuned) as journal, ThreadPoolExecutor(os.cpu_count()) as pool:
        found = {(entry["rule"], entry["scenario"]): entry for entry in journal.entries}
        scores: dict[str, list[Score]] = {rule: [] for rule in rules}
        for scenario in scenarios:
            objective = Objective(
                [(get_scenario(scenario), None)],
                budget.loads,
                budget.num_requests,
                reference="laps_sd",
            )
            tasks = tasks_of(objective, budget.seeds, pool)
            for rule, own in scores.items():
                own.append(score_of(rule, objective, tasks))
            todo = [rule for rule in rules if (rule, scenario) not in found]
            if not todo:
                continue
            final = tasks_of(objective, budget.final_seeds, pool)
            work = [
                (rules[rule], scores[rule][-1], score_of(rule, objective, final), budget)
                for rule in todo
            ]
            for rule, result in zip(todo, pool.map(lambda given: tune(*given), work), strict=True):
                found[rule, scenario] = {"rule": rule, "scenario": scenario, **result}
                journal.add(found[rule, scenario])
                default, tuned = result["default_score"], result["score"]
                print(f"{scenario:18} {rule:16} default {default:.3f} tuned {tuned:.3f}")
        by_rule = {rule: {name: found[rule, name] for name in scenarios} for rule in rules}
        if scenarios == list_scenarios():
            overall = pool.map(
                lambda rule: best_of(
                    [defaults(rules[rule]), *(found[rule, s]["settings"] for s in scenarios)],
                    lambda settings: float(np.mean([score(settings) for score in scores[rule]])),
                ),
                rules,
            )
            for rule, result in zip(rules, overall, strict=True):
                by_rule[rule]["all"] = result
        write(output, asdict(budget), by_rule)
        journal.remove()


def write(output: Path, budget: dict[str, Any], by_rule: dict[str, dict[str, Any]]) -> None:
    """The tuning results beside those that are there, written beside and renamed."""
    before = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    settings, scores = before.get("settings", {}), before.get("scores", {})
    tuned = {scenario for entries in by_rule.values() for scenario in entries}
    document = {
        "made_by": "laps-env tune",
        "date": datetime.now(UTC).date().isoformat(),
        "objective": "mean latency / default LAPS-SD's on the validation split, geometric mean",
        "budget": before.get("budget", {}) | dict.fromkeys(sorted(tuned), budget),
        "settings": {
            r: settings.get(r, {}) | {s: e["settings"] for s, e in entries.items()}
            for r, entries in by_rule.items()
        },
        "scores": {
            r: scores.get(r, {}) | {s: [e["default_score"], e["score"]] for s, e in entries.items()}
            for r, entries in by_rule.items()
        },
    }
    write_beside(output, [(json.dumps(document, indent=1) + "\n").encode()])
