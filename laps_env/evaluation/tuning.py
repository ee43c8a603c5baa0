"""Tuning of every rule that has parameters, each with the same budget, on the *validation* split.

For each (rule, scenario): the default setting, then a space-filling sample of the parameters'
ranges, then rounds of perturbations of the best so far, `TuningBudget.trials` settings in all. The
best of them and the default then meet on other workloads of the *validation* split, because the
best of many on few workloads owes some of its lead to these. A setting is judged by its summed
latency relative to the default LAPS-SD on the same workloads, averaged over the loads. The setting
named "all" is the one, among the defaults and every scenario's winner, that is best on average over
all scenarios, on the workloads before the final.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from laps_env import policies
from laps_env.catalog import list_rules, list_scenarios
from laps_env.evaluation.episodes import serve
from laps_env.policies import Policy, RuleSpec, with_settings
from laps_env.policies._registry import get_rule
from laps_env.sim import SIMULATOR_VERSION
from laps_env.utils.files import write_beside
from laps_env.utils.journal import Journal
from laps_env.workloads import Workload
from laps_env.workloads.scenarios import Scenario, get_scenario


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


class Objective:
    """Scores settings on one scenario: 1.0 is the default LAPS-SD, lower is better."""

    def __init__(self, scenario: Scenario, options: TuningBudget, seeds: tuple[int, ...]) -> None:
        self.scenario = scenario
        self.workloads = [
            [
                scenario.workload(
                    load=load, num_requests=options.num_requests, split="validation", seed=seed
                )
                for seed in seeds
            ]
            for load in options.loads
        ]
        reference = policies.make("laps_sd", scenario)
        self.reference = [self._total_latency(reference, group) for group in self.workloads]

    def score(self, policy: Policy) -> float:
        """Summed latency relative to the reference, averaged over the loads."""
        totals = [self._total_latency(policy, group) for group in self.workloads]
        return float(np.mean(np.array(totals) / self.reference))

    def _total_latency(self, policy: Policy, workloads: list[Workload]) -> float:
        total = 0.0
        for workload in workloads:
            requests = serve(policy, workload, self.scenario).requests()
            total += float((requests["completion_ns"] - requests["arrival_ns"]).sum())
        return total


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


def tune(
    rule_name: str, judge: Objective, final: Objective, options: TuningBudget
) -> dict[str, Any]:
    """The best setting of a rule on a scenario within the budget, with its score in the final."""
    spec = get_rule(rule_name)
    policy = policies.make(rule_name, judge.scenario)
    rng = np.random.default_rng(1)
    tried: list[tuple[float, Settings, np.ndarray | None]] = []

    def attempt(point: np.ndarray | None, settings: Settings) -> None:
        tried.append((judge.score(with_settings(policy, **settings)), settings, point))

    attempt(None, {p.name: float(p.default) for p in spec.parameters})
    for point in space_filling(spec, options.sampled):
        attempt(point, to_settings(spec, point))
    width = 0.2
    while len(tried) < options.trials:
        *_, centre = min((t for t in tried if t[2] is not None), key=lambda t: t[0])
        assert centre is not None
        for _ in range(min(options.refine_by, options.trials - len(tried))):
            point = np.clip(centre + width * rng.standard_normal(len(spec.parameters)), 0, 1)
            attempt(point, to_settings(spec, point))
        width *= 0.6
    best_first = sorted(tried[1:], key=lambda t: t[0])[: options.finalists]
    finalists = [settings for _, settings, _ in (tried[0], *best_first)]
    scores = [final.score(with_settings(policy, **settings)) for settings in finalists]
    best = int(np.argmin(scores))
    return {"settings": finalists[best], "score": scores[best], "default_score": scores[0]}


def choose_overall(
    rule_name: str, judges: list[Objective], found: dict[str, Any]
) -> dict[str, Any]:
    """The setting that is best on average over all scenarios."""
    spec = get_rule(rule_name)
    pool = [{p.name: float(p.default) for p in spec.parameters}]
    pool += [found[judge.scenario.name]["settings"] for judge in judges]
    scores = [mean_score(rule_name, settings, judges) for settings in pool]
    best = int(np.argmin(scores))
    return {"settings": pool[best], "score": scores[best], "default_score": scores[0]}


def mean_score(rule_name: str, settings: Settings, judges: list[Objective]) -> float:
    """Mean score of a setting over all scenarios."""
    made = (policies.make(rule_name, judge.scenario) for judge in judges)
    scores = [j.score(with_settings(p, **settings)) for j, p in zip(judges, made, strict=True)]
    return float(np.mean(scores))


def tune_all(budget: TuningBudget, output: Path, scenarios: list[str], journal_path: Path) -> None:
    """Tune all rules on these scenarios, then write the file in one move.

    Where some scenarios are left out, the file keeps what it has of them, and of "all".

    Args:
        budget: of each rule.
        output: JSON file of settings and scores.
        scenarios: names.
        journal_path: file of the finished pairs, from which a cut-off job goes on.

    Raises:
        ValueError: the journal is of another budget or of other code.
    """
    rules = [name for name in list_rules() if get_rule(name).parameters]
    job = {"job": "tuning", "budget": asdict(budget), "simulator": SIMULATOR_VERSION}
    with Journal(journal_path, job, Tuned) as journal:
        found = {(entry["rule"], entry["scenario"]): entry for entry in journal.entries}
        judges = [Objective(get_scenario(name), budget, budget.seeds) for name in scenarios]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for judge in judges:
                scenario = judge.scenario.name
                todo = [rule for rule in rules if (rule, scenario) not in found]
                if not todo:
                    continue
                final = Objective(judge.scenario, budget, budget.final_seeds)
                work = partial(tune, judge=judge, final=final, options=budget)
                for rule_name, result in zip(todo, pool.map(work, todo), strict=True):
                    found[rule_name, scenario] = {"rule": rule_name, "scenario": scenario, **result}
                    journal.add(found[rule_name, scenario])
                    default, tuned = result["default_score"], result["score"]
                    print(f"{scenario:18} {rule_name:16} default {default:.3f} tuned {tuned:.3f}")
            by_rule = {r: {name: found[r, name] for name in scenarios} for r in rules}
            if scenarios == list_scenarios():
                overall = pool.map(lambda rule: choose_overall(rule, judges, by_rule[rule]), rules)
                for rule_name, result in zip(rules, overall, strict=True):
                    by_rule[rule_name]["all"] = result
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
        "objective": "summed latency / default LAPS-SD's on the validation split, mean over loads",
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
