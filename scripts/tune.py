"""Tune every rule that has parameters, each with the same budget, on the *validation* split.

For each (rule, scenario): the default setting, then a space-filling sample of the parameters'
ranges, then rounds of perturbations of the best so far, `Options.trials` settings in all. The best
of them and the default then meet on other workloads of the *validation* split, because the best of
many on few workloads owes some of its lead to these. A setting is judged by its summed latency
relative to the default LAPS-SD on the same workloads, averaged over the loads. The setting named
"all" is the one, among the defaults and every scenario's winner, that is best on average over all scenarios, on
the workloads before the final. The result goes to policies/data/tuned.json; finished
(rule, scenario) pairs are kept in a journal under runs/, so a cut run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.policies import Policy, RuleSpec, with_settings
from laps_env.sim import SIMULATOR_VERSION
from laps_env.utils.files import check_output, write_beside
from laps_env.utils.journal import LineJournal
from laps_env.workloads import Workload
from laps_env.workloads.scenarios import Scenario, get_scenario, list_scenarios

JOURNAL = Path("runs/tune.jsonl")
OUTPUT = Path(str(files("laps_env.policies") / "data" / "tuned.json"))


@dataclass(frozen=True)
class Options:
    """The budget, the same for every rule."""

    trials: int = 64
    sampled: int = 32
    refine_by: int = 8
    loads: tuple[float, ...] = (0.7, 0.9)
    seeds: tuple[int, ...] = tuple(range(6))
    finalists: int = 8
    final_seeds: tuple[int, ...] = tuple(range(6, 30))
    num_requests: int = 1000


Settings = dict[str, float]


class Objective:
    """Scores settings on one scenario: 1.0 is the default LAPS-SD, lower is better."""

    def __init__(self, scenario: Scenario, options: Options, seeds: tuple[int, ...]) -> None:
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


def tune(rule_name: str, judge: Objective, final: Objective, options: Options) -> dict[str, Any]:
    """The best setting of a rule on a scenario within the budget, with its score in the final."""
    spec = policies.SPECS[rule_name]
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
        centre = min((t for t in tried if t[2] is not None), key=lambda t: t[0])[2]
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
    spec = policies.SPECS[rule_name]
    pool = [{p.name: float(p.default) for p in spec.parameters}]
    pool += [found[judge.scenario.name]["settings"] for judge in judges]
    scores = [mean_score(rule_name, settings, judges) for settings in pool]
    best = int(np.argmin(scores))
    return {"settings": pool[best], "score": scores[best], "default_score": scores[0]}


def mean_score(rule_name: str, settings: Settings, judges: list[Objective]) -> float:
    """Of a setting over all scenarios."""
    made = (policies.make(rule_name, judge.scenario) for judge in judges)
    scores = [j.score(with_settings(p, **settings)) for j, p in zip(judges, made, strict=True)]
    return float(np.mean(scores))


def run(options: Options, output: Path, scenarios: list[str]) -> None:
    """All rules on these scenarios, then the file in one move.

    Where some scenarios are left out, the file keeps what it has of them, and of "all".

    Raises:
        ValueError: the journal is of another budget or of other code.
    """
    rules = [name for name, spec in policies.SPECS.items() if spec.parameters]
    JOURNAL.parent.mkdir(exist_ok=True)
    budget = json.loads(json.dumps(asdict(options)))
    journal = LineJournal(JOURNAL, {"budget": budget, "simulator": SIMULATOR_VERSION})
    found = {(entry["rule"], entry["scenario"]): entry for entry in journal.entries}
    judges = [Objective(get_scenario(name), options, options.seeds) for name in scenarios]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for judge in judges:
            scenario = judge.scenario.name
            todo = [rule for rule in rules if (rule, scenario) not in found]
            if not todo:
                continue
            final = Objective(judge.scenario, options, options.final_seeds)
            work = partial(tune, judge=judge, final=final, options=options)
            for rule_name, result in zip(todo, pool.map(work, todo), strict=True):
                found[rule_name, scenario] = {"rule": rule_name, "scenario": scenario, **result}
                journal.add(found[rule_name, scenario])
                default, tuned = result["default_score"], result["score"]
                print(f"{scenario:18} {rule_name:16} default {default:.3f} tuned {tuned:.3f}")
        by_rule = {r: {j.scenario.name: found[r, j.scenario.name] for j in judges} for r in rules}
        if scenarios == list_scenarios():
            overall = list(pool.map(lambda r: choose_overall(r, judges, by_rule[r]), rules))
            for rule_name, result in zip(rules, overall, strict=True):
                by_rule[rule_name]["all"] = result
    write(output, budget, by_rule)
    journal.remove()


def write(output: Path, budget: dict[str, Any], by_rule: dict[str, dict[str, Any]]) -> None:
    """The tuning results beside those that are there, written beside and renamed."""
    before = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    settings, scores = before.get("settings", {}), before.get("scores", {})
    tuned = {scenario for entries in by_rule.values() for scenario in entries}
    document = {
        "made_by": "scripts/tune.py",
        "date": datetime.now(UTC).date().isoformat(),
        "objective": "summed latency / default LAPS-SD's on the tune set, mean over loads",
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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=Options.trials, help="settings per rule")
    parser.add_argument("--out", type=Path, default=OUTPUT)
    parser.add_argument(
        "--scenarios", nargs="+", default=list_scenarios(), choices=list_scenarios(), metavar="NAME"
    )
    arguments = parser.parse_args()
    if arguments.trials < 2:
        parser.error(f"--trials: expected at least 2, got {arguments.trials}")
    try:
        check_output(arguments.out)
    except ValueError as reason:
        parser.error(f"--out: {reason}")
    options = Options(trials=arguments.trials, sampled=max(arguments.trials // 2, 1))
    try:
        run(options, arguments.out, arguments.scenarios)
    except ValueError as reason:
        parser.error(str(reason))


if __name__ == "__main__":
    main()
