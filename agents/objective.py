"""`Objective`: scores the weights of a learned rule by what the rule is for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.evaluation.grid import REFERENCE
from laps_env.policies import Policy, RuleSpec
from laps_env.policies.base.traffic_model import Floats
from laps_env.workloads import Workload
from laps_env.workloads.predictors import PredictorError
from laps_env.workloads.scenarios import Scenario

#: Rows of the request table, for a rule that is not made for another number.
SLOTS = 64


@dataclass(frozen=True)
class Task:
    """One workload to be judged on.

    Attributes:
        place: in the judge's traffic.
        reference: mean and p99 latency of the reference policy, seconds.
    """

    place: int
    workload: Workload
    reference: Floats


@dataclass(frozen=True)
class Objective:
    """Scores weights: log of latency / the reference's on the same workloads, lower is better.

    Attributes:
        rule: a learned rule; its weights are replaced by those that are judged.
        traffic: scenarios, each with the error of its predictions.
        loads: with each of the traffic gives ``repeats`` workloads of ``num_requests``.
        cells: pairs of traffic and load that a seed is judged on, drawn by it; None for all.
        tail: weight of the p99 latency beside that of the mean.
    """

    rule: RuleSpec
    traffic: Sequence[tuple[Scenario, PredictorError]]
    loads: Sequence[float]
    num_requests: int
    repeats: int = 1
    cells: int | None = None
    tail: float = 0.0

    def _made(self, name: str | RuleSpec) -> list[Policy]:
        return [policies.make(name, s, predictor_error=error) for s, error in self.traffic]

    @cached_property
    def _references(self) -> list[Policy]:
        return self._made(REFERENCE)

    @cached_property
    def _candidates(self) -> list[Policy]:
        return self._made(self.rule)

    def tasks(self, split: str, seed: int, pool: ThreadPoolExecutor) -> list[Task]:
        """The workloads of a seed, served by the reference.

        Args:
            split: *train* for the search, *validation* to choose.
            seed: seeds of different numbers give disjoint workloads.
            pool: the threads.
        """
        cells = list(product(range(len(self.traffic)), self.loads))
        if self.cells is not None and self.cells < len(cells):
            chosen = np.random.default_rng(seed).choice(len(cells), self.cells, replace=False)
            cells = [cells[k] for k in sorted(chosen)]
        asked = [(*cell, repeat) for cell, repeat in product(cells, range(self.repeats))]
        return list(pool.map(lambda cell: self._task(split, seed, *cell), asked))

    def _task(self, split: str, seed: int, place: int, load: float, repeat: int) -> Task:
        scenario, error = self.traffic[place]
        workload = scenario.workload(
            load=load,
            num_requests=self.num_requests,
            split=split,
            seed=seed * self.repeats + repeat,
            predictor_error=error,
        )
        return Task(place, workload, self._latencies(self._references[place], place, workload))

    def _latencies(self, policy: Policy, place: int, workload: Workload) -> Floats:
        """Mean and p99 latency, seconds."""
        simulation = serve(policy, workload, self.traffic[place][0], slots=self.rule.slots or SLOTS)
        requests = simulation.requests()
        latency = (requests["completion_ns"] - requests["arrival_ns"]) * 1e-9
        return np.array([latency.mean(), np.percentile(latency, 99)])

    def score(self, weights: Floats, tasks: Iterable[Task]) -> float:
        """Of one candidate: log ratio of the mean, and ``tail`` times that of the p99."""
        mean, tail = self.log_ratios(weights, tasks)
        return float(mean + self.tail * tail)

    def log_ratios(self, weights: Floats, tasks: Iterable[Task]) -> Floats:
        """Of mean and p99 latency, averaged over the tasks."""
        return np.log([self._ratio(weights, task) for task in tasks]).mean(axis=0)

    def _ratio(self, weights: Floats, task: Task) -> Floats:
        base = self._candidates[task.place]
        params = np.concatenate([weights, base.params[weights.size :]])
        policy = replace(base, params=params)
        return self._latencies(policy, task.place, task.workload) / task.reference
