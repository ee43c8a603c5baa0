"""`Objective`: scores policies relative to a reference on the same workloads."""

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
from laps_env.sim.metrics import has_limits, within_limits
from laps_env.workloads import Workload
from laps_env.workloads.predictors import PredictorError
from laps_env.workloads.scenarios import Scenario

#: Slots of the request table, for a rule that is not made for another number.
SLOTS = 64


@dataclass(frozen=True)
class Task:
    """One workload that policies are scored on.

    Attributes:
        place: Index of its scenario in the objective's traffic.
        split: Split of the workload.
        workload: The workload itself.
        reference: What the reference policy measures there, float64 [3]: mean and p99
            latency in seconds, share of limits missed.
    """

    place: int
    split: str
    workload: Workload
    reference: Floats


@dataclass(frozen=True)
class Objective:
    """Log of latency over the reference's on the same workloads, lower is better.

    Attributes:
        traffic: Scenarios, each with the error of its predictions.
        loads: Loads; each with each scenario gives ``repeats`` workloads.
        num_requests: Requests of a workload.
        repeats: Workloads of each scenario and load under one seed.
        cells: Pairs of scenario and load that a seed draws and is scored on; None for all.
        slots: Slots of the request table.
        reference: Name of the reference policy.
        confidences: Whether the workloads have the draft's confidences.
    """

    traffic: Sequence[tuple[Scenario, PredictorError]]
    loads: Sequence[float]
    num_requests: int
    repeats: int = 1
    cells: int | None = None
    slots: int = SLOTS
    reference: str = REFERENCE
    confidences: bool = False

    def make(self, rule: str | RuleSpec) -> list[Policy]:
        """The policy of a rule for each of the traffic."""
        return [policies.make(rule, s, predictor_error=error) for s, error in self.traffic]

    @cached_property
    def _references(self) -> list[Policy]:
        return self.make(self.reference)

    def tasks(self, split: str, seed: int, pool: ThreadPoolExecutor) -> list[Task]:
        """The workloads of a seed, served by the reference.

        Args:
            split: Split of the workloads: *train* for a search, *validation* to choose.
            seed: Seed of the workloads; different seeds give disjoint ones.
            pool: Threads that serve them.
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
            confidences=self.confidences,
        )
        return Task(
            place, split, workload, self._measured(self._references, place, split, workload)
        )

    def _measured(
        self, made: Sequence[Policy], place: int, split: str, workload: Workload
    ) -> Floats:
        """Mean and p99 latency in seconds, share of limits missed (NaN without limits), [3]."""
        scenario, _ = self.traffic[place]
        served = serve(made[place], workload, scenario, split=split, slots=self.slots)
        requests = served.requests()
        latency = (requests["completion_ns"] - requests["arrival_ns"]) * 1e-9
        limited = requests[has_limits(requests)]
        missed = 1 - within_limits(limited).mean() if limited.size else np.nan
        return np.array([latency.mean(), np.percentile(latency, 99), missed])

    def log_ratios(self, made: Sequence[Policy], tasks: Iterable[Task]) -> Floats:
        """Log ratios of mean and p99 latency, averaged over the tasks, float64 [2].

        Args:
            made: A policy for each of the traffic (`make`).
            tasks: Workloads of this objective.
        """
        return self._compared(made, tasks)[:2]

    def scores(self, made: Sequence[Policy], tasks: Iterable[Task]) -> dict[str, float]:
        """Score under each objective that the workloads have data for, lower is better.

        Args:
            made: A policy for each of the traffic (`make`).
            tasks: Workloads of this objective.

        Returns:
            ``mean_latency``, ``p99_latency``: over the reference's, geometric mean over the tasks;
            ``slo_attainment``: share of the limits that were *missed*, mean over the tasks.
        """
        mean, tail, missed = self._compared(made, tasks)
        scores = {"mean_latency": float(np.exp(mean)), "p99_latency": float(np.exp(tail))}
        return scores if np.isnan(missed) else scores | {"slo_attainment": float(missed)}

    def _compared(self, made: Sequence[Policy], tasks: Iterable[Task]) -> Floats:
        """Log ratios of mean and p99 latency, and share of limits missed, mean over tasks, [3]."""
        values = [
            np.array([*np.log(found[:2] / task.reference[:2]), found[2]])
            for task in tasks
            for found in [self._measured(made, task.place, task.split, task.workload)]
        ]
        return np.asarray(np.mean(values, axis=0))


def with_weights(made: Sequence[Policy], weights: Floats) -> list[Policy]:
    """Policies of a learned rule with other weights, flat [W]; all other constants stay."""

    def changed(policy: Policy) -> Floats:
        first = len(policy.settings)
        parts = [policy.params[:first], weights, policy.params[first + weights.size :]]
        return np.concatenate(parts)

    return [replace(policy, params=changed(policy)) for policy in made]
