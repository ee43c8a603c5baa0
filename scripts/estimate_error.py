"""How wrong LAPS-SD's estimate of the execution time T is, under each reading of the question.

Requests are served alone in the kernel; after each of their rounds the estimate is made from what a
scheduler sees then, and held against the durations that the cost model gives. Used by
`reproduce_paper.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from laps_env import policies
from laps_env.policies.laps_sd import estimated_time, is_stable
from laps_env.report.tables import markdown_table
from laps_env.sim.loops import run_rule
from laps_env.sim.observation import ACCEPTED, DRAFTED, GENERATED_TOKENS
from laps_env.sim.simulation import Simulation
from laps_env.workloads.arrivals import AllAtOnce
from laps_env.workloads.scenarios import Scenario, get_scenario

ROUNDS_SEEN = (1, 2, 5, 10, 20, 40, 80)
PREDICTOR_ERRORS = (0.0, 0.3, 0.5, 0.8)

#: Requests whose rounds are recorded, of the *test* split.
ESTIMATED_REQUESTS = 500


class Errors(NamedTuple):
    """Median and mean of |estimate / truth - 1| over requests, and that of the two sums."""

    median: float
    mean: float
    of_sum: float


@dataclass(frozen=True)
class Course:
    """One request served alone, seen by the scheduler after each of its R rounds.

    Attributes:
        length: true output tokens.
        seconds: float64 [R], duration of each round without prefill, by the cost model.
        rows: float32 [R, F], the request's row of the observation.
        servers: float32 [R, G], the observation's server part.
    """

    length: int
    seconds: np.ndarray
    rows: np.ndarray
    servers: np.ndarray

    def rate(self, rounds: int) -> float:
        """A, accepted / drafted, after so many rounds."""
        return float(self.rows[rounds - 1, ACCEPTED] / self.rows[rounds - 1, DRAFTED])

    def rounds_to_stable(self) -> int | None:
        """Rounds after which LAPS-SD (default constants) takes the rate for stable."""
        settings = policies.make("laps_sd").settings
        test = settings["fewest_rounds"], settings["tolerance"]
        return next((k + 1 for k, row in enumerate(self.rows[:-1]) if is_stable(row, *test)), None)

    def whole(self, length: float, rounds: int) -> tuple[float, float]:
        """T estimated with A after so many rounds, and the truth, in seconds."""
        estimate = estimated_time(self.servers[rounds - 1], length, self.rate(rounds))
        return estimate, float(self.seconds.sum())

    def rest(self, length: float, rounds: int) -> tuple[float, float]:
        """The same of what remains after these rounds."""
        tokens = max(length - float(self.rows[rounds - 1, GENERATED_TOKENS]), 1.0)
        estimate = estimated_time(self.servers[rounds - 1], tokens, self.rate(rounds))
        return estimate, float(self.seconds[rounds:].sum())


def record_courses(scenario: Scenario) -> list[Course]:
    """Requests of the *test* split, run to completion one by one in the kernel."""
    scenario = replace(scenario, arrivals=AllAtOnce())
    workload = scenario.workload(load=1.0, num_requests=ESTIMATED_REQUESTS, split="test")
    simulation = Simulation(scenario.server, slots=ESTIMATED_REQUESTS)  # request i keeps slot i
    simulation.start(0, workload)
    fcfs, state, constants = policies.make("fcfs"), simulation.state, simulation.constants
    scorer = fcfs.scorer(simulation.slots)
    courses, cost = [], scenario.server.cost
    for i in range(workload.num_requests):
        seconds, rows, servers = [], [], []
        while state.slots[0, i]["request"] == i:
            before = int(state.servers[0]["now"])
            run_rule(constants, state, scorer, 1)
            seconds.append((int(state.servers[0]["now"]) - before) * 1e-9)
            row, slot = state.queue[0, i].copy(), state.slots[0, i]
            # the last round empties the row; the slot's record still has the counts
            row[[GENERATED_TOKENS, DRAFTED, ACCEPTED]] = (
                slot["generated"],
                slot["drafted"],
                slot["accepted"],
            )
            rows.append(row)
            servers.append(state.server_obs[0].copy())
        prefill = cost.target_token_ns * workload.prompt_tokens[i] + cost.prefill_request_ns
        seconds[0] -= prefill * 1e-9  # the paper's T has no term for it
        length = int(workload.output_tokens[i])
        courses.append(Course(length, np.array(seconds), np.array(rows), np.array(servers)))
    return courses


def predictions(scenario: Scenario, predictor_error: float) -> np.ndarray:
    """Predicted output tokens of the recorded requests."""
    return scenario.workload(
        load=1.0,
        num_requests=ESTIMATED_REQUESTS,
        split="test",
        predictor_error=predictor_error,
    ).predicted_tokens


def errors(pairs: list[tuple[float, float]]) -> Errors:
    """The errors of (estimate, truth) pairs in seconds, one per request."""
    estimate, truth = np.array(pairs).T
    off = np.abs(estimate / truth - 1)
    of_sum = abs(estimate.sum() / truth.sum() - 1)
    return Errors(float(np.median(off)), float(off.mean()), float(of_sum))


def readings(scenario: Scenario, courses: list[Course]) -> dict[str, Errors]:
    """The error under each reading of "the estimate of T is off by", most charitable first."""
    found = {
        "whole T; A at completion, true L": errors(
            [c.whole(c.length, len(c.seconds)) for c in courses]
        )
    }
    stable = [(i, c, c.rounds_to_stable()) for i, c in enumerate(courses)]
    seen = [(i, c, k) for i, c, k in stable if k is not None]
    for error in (0.0, 0.3, 0.5):
        lengths = predictions(scenario, error)
        known = f"L predicted with error {error}" if error else "true L"
        found[f"whole T; A when stable, {known}"] = errors(
            [c.whole(lengths[i], k) for i, c, k in seen]
        )
        found[f"rest of T; A when stable, {known}"] = errors(
            [c.rest(lengths[i], k) for i, c, k in seen]
        )
    return found


def readings_table(by_scenario: dict[str, dict[str, Errors]]) -> str:
    """Markdown table of the readings."""
    lines = [
        [
            reading,
            *(" / ".join(f"{e:.1%}" for e in found[reading]) for found in by_scenario.values()),
        ]
        for reading in next(iter(by_scenario.values()))
    ]
    return markdown_table(["reading", *by_scenario], lines)


def estimate_table(courses: dict[str, list[Course]]) -> str:
    """Median and mean error of the rest of T, by rounds seen and predictor error, in markdown."""
    lines = []
    for name, recorded in courses.items():
        for error in PREDICTOR_ERRORS:
            lengths = predictions(get_scenario(name), error)
            cells = []
            for k in ROUNDS_SEEN:
                pairs = [
                    c.rest(lengths[i], k) for i, c in enumerate(recorded) if k < len(c.seconds)
                ]
                found = errors(pairs) if pairs else None
                cells.append(f"{found.median:.0%} / {found.mean:.0%}" if found else "-")
            lines.append([name, error, *cells])
    headings = (f"{k} rounds" for k in ROUNDS_SEEN)
    return markdown_table(["scenario", "predictor error", *headings], lines)
