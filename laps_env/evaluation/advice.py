"""What another scheduler, batch size or draft length would bring to a server on its own arrivals.

Every decision is screened on *validation* workloads. The best of each objective, its nearest
rivals, today's decision and each of its changes alone are then judged on *test* workloads, which
chose nothing, paired with today's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from laps_env import policies
from laps_env.evaluation.episodes import evaluate_episode
from laps_env.evaluation.statistics import Interval, mean_with_interval, ratio_with_interval
from laps_env.sim.server_model import DraftLength, needs_confidence
from laps_env.sim.workload import Workload
from laps_env.utils.checks import check_count, check_list, check_positive
from laps_env.utils.splits import Split
from laps_env.workloads.load import realised_load
from laps_env.workloads.scenario import AS_RECORDED, Scenario

#: Requests of a workload, and workloads that every decision is screened on.
WINDOW, SCREENED = 1000, 4
#: Rivals of each best decision that are judged beside it.
RIVALS = 4

#: What may be best, and whether more is better.
OBJECTIVES = {"mean_latency_s": False, "p99_latency_s": False, "slo_attainment": True}

#: Groups of constants whose error the advice is tried against.
COST_GROUPS = {
    "drafting": ("draft_step_ns", "draft_token_ns", "draft_kv_token_ns"),
    "batched tokens": ("target_token_ns", "target_kv_token_ns"),
}

Floats = np.ndarray


@dataclass(frozen=True)
class Decision:
    """What the operator of a server decides.

    Attributes:
        policy: Name of the scheduler.
        batch_size: Most requests in a round.
        draft_length: Tokens drafted a round, or the name of a rule.
    """

    policy: str
    batch_size: int
    draft_length: DraftLength

    def __str__(self) -> str:
        return f"{self.policy}, batch {self.batch_size}, draft {self.draft_length}"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked.

    Attributes:
        scenario: Server and traffic; its batch size and draft length are today's.
        load: Share of the scenario's saturation, or ``"recorded"``: the log's own rate.
        today: Scheduler of today.
        policies: Schedulers that may be chosen.
        batch_sizes: Batch sizes that may be chosen.
        draft_lengths: Draft lengths, or names of rules, that may be chosen.
        num_requests: Requests that the chosen are judged on, at least 2,000.
        cost_error: Relative error of the costs that the advice is tried against, in 0..1.

    Raises:
        ValueError: A value out of range.
    """

    scenario: Scenario
    load: float | str
    today: str
    policies: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    draft_lengths: tuple[DraftLength, ...]
    num_requests: int = 10_000
    cost_error: float = 0.1

    def __post_init__(self) -> None:
        for name in ("policies", "batch_sizes", "draft_lengths"):
            check_list(name, getattr(self, name))
        for policy in (self.today, *self.policies):
            if "+" in policy:
                raise ValueError(
                    f"policies: expected schedulers alone, got {policy}: rules for the draft "
                    "length go into draft_lengths"
                )
        check_count("num_requests", self.num_requests, least=2 * WINDOW)
        if not 0 <= self.cost_error < 1:
            raise ValueError(f"cost_error: expected a number in 0..1, got {self.cost_error}")
        if self.load != AS_RECORDED:
            check_positive("load", self.load)
        for decision in self.decisions:
            self.served_by(decision)

    @property
    def now(self) -> Decision:
        """Today's decision."""
        server = self.scenario.server
        return Decision(self.today, server.batch_size, server.draft_length)

    @property
    def decisions(self) -> list[Decision]:
        """All decisions, today's among them."""
        made = product(self.policies, self.batch_sizes, self.draft_lengths)
        return list(dict.fromkeys([self.now, *(Decision(*parts) for parts in made)]))

    @property
    def objectives(self) -> tuple[str, ...]:
        """What may be best here: limits only where requests have them."""
        limited = bool(self.scenario.limits)
        return tuple(name for name in OBJECTIVES if limited or name != "slo_attainment")

    def served_by(self, decision: Decision) -> Scenario:
        """The scenario after a decision; its requests and their arrivals stay."""
        server = self.scenario.server.with_changes(
            batch_size=decision.batch_size, draft_length=decision.draft_length
        )
        return replace(self.scenario, server=server)

    def workloads(self, split: Split, count: int) -> list[Workload]:
        """Workloads of a split."""
        confidences = any(map(needs_confidence, self.draft_lengths))
        return [
            self.scenario.workload(
                load=self.load,
                num_requests=WINDOW,
                split=split,
                seed=seed,
                confidences=confidences,
            )
            for seed in range(count)
        ]


@dataclass(frozen=True)
class Judged:
    """A decision on the *test* workloads.

    Attributes:
        decision: The decision.
        values: Value of each objective on each workload, [n].
        change: Value of each objective over today's, with its interval; of the share of limits kept
            the difference from today's.
    """

    decision: Decision
    values: dict[str, Floats]
    change: dict[str, tuple[float, Interval]]


@dataclass(frozen=True)
class Advice:
    """An answer.

    Attributes:
        question: What was asked.
        screened: Number of decisions.
        loads: Load that each *test* workload brings to today's server.
        today: Today's decision.
        best: Best decision of each objective, as screened.
        equals: Decisions that are not told to be worse than it there, best first.
        parts: Its changes one by one, where there are several.
        if_costs_differ: Its value over today's where costs are off, by what is off in words.
    """

    question: Question
    screened: int
    loads: list[float]
    today: Judged
    best: dict[str, Judged]
    equals: dict[str, list[Judged]]
    parts: dict[str, list[Judged]]
    if_costs_differ: dict[str, dict[str, tuple[float, Interval]]]


def advise(question: Question, on_progress: Callable[[int], object] = lambda runs: None) -> Advice:
    """Answer a question.

    Args:
        question: What is asked.
        on_progress: Told of each finished decision with 1 (`steps_of`).

    Raises:
        ValueError: An unknown policy, or a request that does not fit the key-value pool.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        play = _Player(question, pool, on_progress)
        workloads = question.workloads(Split.VALIDATION, SCREENED)
        screened = play(question.decisions, Split.VALIDATION, workloads)
        ranks = {name: _ranked(name, screened) for name in question.objectives}
        workloads = question.workloads(Split.TEST, question.num_requests // WINDOW)
        parts = {name: list(_single_changes(question.now, r[0])) for name, r in ranks.items()}
        finalists = [question.now]
        for name, ranked in ranks.items():
            finalists += [*ranked[: 1 + RIVALS], *parts[name]]
        values = play(list(dict.fromkeys(finalists)), Split.TEST, workloads)
        judged = {decision: _judge(decision, values, question.now) for decision in values}
        return Advice(
            question=question,
            screened=len(screened),
            loads=[realised_load(workload, question.scenario.server) for workload in workloads],
            today=judged[question.now],
            best={name: judged[ranked[0]] for name, ranked in ranks.items()},
            equals={
                name: [judged[rival] for rival in _not_told_apart(name, ranked, values)]
                for name, ranked in ranks.items()
            },
            parts={name: [judged[part] for part in changes] for name, changes in parts.items()},
            if_costs_differ={
                name: _if_costs_differ(play, name, ranked[0], workloads)
                for name, ranked in ranks.items()
                if ranked[0] != question.now
            },
        )


Values = dict[Decision, dict[str, Floats]]


class _Player:
    """Plays decisions side by side; each one's objectives on each workload."""

    def __init__(
        self,
        question: Question,
        pool: ThreadPoolExecutor,
        on_progress: Callable[[int], object],
    ) -> None:
        self.question, self._pool, self._on_progress = question, pool, on_progress

    def __call__(
        self,
        decisions: Sequence[Decision],
        split: Split,
        workloads: Sequence[Workload],
        costs: dict[str, float] | None = None,
    ) -> Values:
        """Values of each decision; ``costs`` are factors of constants."""

        def play(decision: Decision) -> dict[str, Floats]:
            scenario = self.question.served_by(decision)
            if costs:
                cost = scenario.server.cost
                changed = {name: getattr(cost, name) * by for name, by in costs.items()}
                server = scenario.server.with_changes(cost=replace(cost, **changed))
                scenario = replace(scenario, server=server)
            policy = policies.make(decision.policy, scenario)
            alone = np.ones(WINDOW, np.int64)  # slowdowns are not looked at
            runs = [
                evaluate_episode(policy, workload, scenario, split=split, alone_ns=alone)
                for workload in workloads
            ]
            self._on_progress(1)
            return {n: np.array([run[n] for run in runs]) for n in self.question.objectives}

        return dict(zip(decisions, self._pool.map(play, decisions), strict=True))


def _ranked(objective: str, values: Values) -> list[Decision]:
    """Decisions, the best first; of equals the one that was asked first."""
    sign = -1 if OBJECTIVES[objective] else 1
    return sorted(values, key=lambda decision: sign * values[decision][objective].mean())


def _single_changes(today: Decision, best: Decision) -> Iterator[Decision]:
    """Each change from today's decision to the best alone, where there are several."""
    changed = {k: v for k, v in vars(best).items() if v != getattr(today, k)}
    if len(changed) > 1:
        for name, value in changed.items():
            yield replace(today, **{name: value})


def _compare(objective: str, values: Floats, base: Floats) -> tuple[float, Interval]:
    """A ratio of latencies, or a difference of shares."""
    if OBJECTIVES[objective]:
        return mean_with_interval(values - base)
    return ratio_with_interval(values, base)


def _judge(decision: Decision, values: Values, today: Decision) -> Judged:
    own, base = values[decision], values[today]
    return Judged(decision, own, {name: _compare(name, own[name], base[name]) for name in own})


def _not_told_apart(
    objective: str, ranked: Sequence[Decision], values: Values
) -> Iterator[Decision]:
    """Rivals of the best that were judged, and are not told to be worse than it."""
    best = values[ranked[0]][objective]
    for rival in ranked[1:]:
        if rival in values:
            _, interval = _compare(objective, values[rival][objective], best)
            worse = interval is not None and (
                interval[1] < 0 if OBJECTIVES[objective] else interval[0] > 1
            )
            if not worse:
                yield rival


def _if_costs_differ(
    play: _Player, objective: str, best: Decision, workloads: Sequence[Workload]
) -> dict[str, tuple[float, Interval]]:
    """What the best brings over today's decision where a group of costs is off."""
    question, found = play.question, {}
    for (group, names), side in product(COST_GROUPS.items(), (1, -1)):
        if not any(getattr(question.scenario.server.cost, name) for name in names):
            continue  # nothing times a factor
        factor = 1 + side * question.cost_error
        costs = dict.fromkeys(names, factor)
        values = play([question.now, best], Split.TEST, workloads, costs)
        compared = _compare(objective, values[best][objective], values[question.now][objective])
        found[f"{group} x {factor:g}"] = compared
    return found


def steps_of(question: Question) -> int:
    """How often `advise` tells of progress, at most."""
    finalists = 1 + len(question.objectives) * (1 + RIVALS + 3)
    return len(question.decisions) + finalists + len(question.objectives) * 4 * len(COST_GROUPS)
