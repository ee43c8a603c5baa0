"""Choice of a rule's parameters on a scenario, with the same budget for every rule.

The default setting, a space-filling sample of the parameters' ranges, then, objective after
objective, rounds of perturbations of the best so far; every setting is scored under all objectives
that the scenario has data for. The best under each and the default then meet on other workloads,
because the best of many on few workloads owes some of its lead to these. All workloads are of the
*validation* split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from laps_env.policies import RuleSpec

Settings = dict[str, float]
Scores = dict[str, float]
"""Scores by objective, lower is better (`laps_env.evaluation.objective.Objective.scores`)."""
Score = Callable[[Settings], Scores]
"""Scores of a rule with these settings."""


@dataclass(frozen=True)
class TuningBudget:
    """Settings and workloads that every rule is tuned with.

    Attributes:
        sampled: Settings of the space-filling sample.
        refined: Settings near the best so far, for each objective.
        refine_by: Settings of a round of these.
        loads: Shares of saturation.
        seeds: Seeds of the workloads that all settings meet.
        finalists: Settings of each objective that meet in the final, beside the default.
        final_seeds: Seeds of the final's workloads.
        overall_seeds: Seeds of the workloads, of each scenario, on which settings for all
            scenarios are chosen.
        num_requests: Requests of a workload.
    """

    sampled: int = 32
    refined: int = 16
    refine_by: int = 8
    loads: tuple[float, ...] = (0.7, 0.9)
    seeds: tuple[int, ...] = tuple(range(3))
    finalists: int = 3
    final_seeds: tuple[int, ...] = tuple(range(3, 11))
    overall_seeds: tuple[int, ...] = (0,)
    num_requests: int = 600


class Found(TypedDict):
    """The best setting under an objective, its score, and the default's."""

    settings: dict[str, float]
    score: float
    default_score: float


@dataclass(frozen=True)
class Trial:
    """A setting, where it is in the unit cube [parameters], and its scores."""

    settings: Settings
    point: npt.NDArray[np.float64]
    scores: Scores


def tune(spec: RuleSpec, score: Score, final: Score, budget: TuningBudget) -> dict[str, Found]:
    """The best setting of a rule within the budget, by objective, with its score in the final."""
    rng = np.random.default_rng(1)

    def tried(points: npt.NDArray[np.float64]) -> list[Trial]:
        found = [(to_settings(spec, point), point) for point in points]
        return [Trial(settings, point, score(settings)) for settings, point in found]

    trials = tried(space_filling(spec, budget.sampled))
    objectives = list(trials[0].scores)
    for objective in objectives:
        width, left = 0.2, budget.refined
        while left:
            centre = best_first(trials, objective)[0].point
            steps = rng.standard_normal((min(budget.refine_by, left), centre.size))
            trials += tried(np.clip(centre + width * steps, 0, 1))
            left -= len(steps)
            width *= 0.6
    finalists = [defaults(spec)]
    for objective in objectives:
        for trial in best_first(trials, objective)[: budget.finalists]:
            if trial.settings not in finalists:
                finalists.append(trial.settings)
    return best_of(finalists, final)


def best_first(trials: Sequence[Trial], objective: str) -> list[Trial]:
    """Trials by their score under an objective."""
    return sorted(trials, key=lambda trial: trial.scores[objective])


def best_of(finalists: Sequence[Settings], score: Score) -> dict[str, Found]:
    """The best of some settings, of which the first is the default, by objective."""
    scores = [score(settings) for settings in finalists]
    return {
        objective: _best(finalists, [found[objective] for found in scores])
        for objective in scores[0]
    }


def _best(finalists: Sequence[Settings], scores: list[float]) -> Found:
    best = int(np.argmin(scores))
    return {"settings": finalists[best], "score": scores[best], "default_score": scores[0]}


def defaults(spec: RuleSpec) -> Settings:
    """The default of each parameter."""
    return {p.name: float(p.default) for p in spec.parameters}


def to_settings(spec: RuleSpec, point: npt.NDArray[np.float64]) -> Settings:
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


def space_filling(spec: RuleSpec, count: int) -> npt.NDArray[np.float64]:
    """A Latin hypercube sample of the unit cube, [count, parameters]."""
    rng = np.random.default_rng(0)
    strata = np.argsort(rng.random((len(spec.parameters), count)), axis=1).T
    return np.asarray((strata + rng.random(strata.shape)) / count)
