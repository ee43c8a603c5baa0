"""How far a live server and its replay agree, in numbers: exactness, errors, noise, order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import t as student_t

from laps_env.workloads import Workload

#: What is compared, seconds (`laps_env.sim.metrics.summarize`).
METRICS = ("mean_latency_s", "p50_latency_s", "p99_latency_s", "mean_ttft_s", "makespan_s")

#: Two policies differ where chance alone would part them as far in less than this share of cases.
CHANCE = 0.05

Metrics = dict[str, float]
"""By name, at least `METRICS`."""


@dataclass(frozen=True)
class Exactness:
    """Live against replay under the calibrated clock, for one policy.

    Attributes:
        steps: Steps of the live episode; each shows an observation, a reward, a duration and a
            mask.
        steps_apart: Steps in which any of these is not equal bit for bit, or that only one ran.
        rounds: Rounds that the live server ran, counted once for each request in them.
        rounds_apart: Rounds that accepted other than was recorded, and texts of another length.
        tokens: Tokens that the live server committed.
        metrics_apart: Number of `METRICS` that differ.
    """

    policy: str
    steps: int
    steps_apart: int
    rounds: int
    rounds_apart: int
    tokens: int
    metrics_apart: int

    @property
    def mismatches(self) -> int:
        """0 where live and replay are the same."""
        return self.steps_apart + self.rounds_apart + self.metrics_apart


def compare_rounds(live: Workload, known: Workload) -> tuple[int, int]:
    """Rounds that a live server ran, and how many went otherwise than was recorded.

    Args:
        live: Workload that has come true there (`LiveServer.workload`).
        known: Same requests as recorded.
    """
    rounds = apart = 0
    for i, (end, recorded_end) in enumerate(
        zip(live.output_tokens, known.output_tokens, strict=True)
    ):
        apart += int(end != recorded_end)
        position = 0
        while position < end:
            here = live.offset[i] + position
            accepted = int(live.accepted_length[here])
            rounds += 1
            if position < recorded_end:
                there = known.offset[i] + position
                drafted = live.max_draft[here] if live.max_draft is not None else 255
                apart += accepted != int(min(known.accepted_length[there], drafted))
            position += accepted + 1
    return rounds, apart


@dataclass(frozen=True)
class Error:
    """One metric of one policy under the measured clock.

    Attributes:
        live: Mean over repetitions, seconds.
        noise: Standard deviation over repetitions / live.
        noise_of_mean: Standard error of live / live.
        replay: Mean over repetitions, seconds.
        error: Relative error of the replay, replay / live - 1.
    """

    policy: str
    metric: str
    live: float
    noise: float
    noise_of_mean: float
    replay: float
    error: float


def compare_metrics(
    live: Mapping[str, Sequence[Metrics]], replay: Mapping[str, Sequence[Metrics]]
) -> list[Error]:
    """A row per policy and metric.

    Args:
        live: Metrics by policy, one for each of two or more repetitions.
        replay: Metrics of the replay, likewise.
    """
    rows = []
    for policy, plays in live.items():
        for name in METRICS:
            values = np.array([play[name] for play in plays])
            mean = float(values.mean())
            predicted = float(np.mean([play[name] for play in replay[policy]]))
            noise = float(values.std(ddof=1)) / mean
            of_mean = noise / math.sqrt(values.size)
            rows.append(Error(policy, name, mean, noise, of_mean, predicted, predicted / mean - 1))
    return rows


@dataclass(frozen=True)
class Order:
    """Two policies by their mean latency under the measured clock.

    Attributes:
        live: Mean over repetitions of the first's latency minus the second's, seconds.
        standard_error: Standard error of live, paired over repetitions, seconds.
        margin: Least difference that is not put down to chance, by Student's t, seconds.
        replay: Mean difference there, seconds.
    """

    first: str
    second: str
    live: float
    standard_error: float
    margin: float
    replay: float

    @property
    def decided(self) -> bool:
        """Whether the live difference exceeds its noise."""
        return abs(self.live) > self.margin

    @property
    def same(self) -> bool:
        """Whether the replay has them in the live order."""
        return self.live * self.replay > 0


def compare_order(
    live: Mapping[str, Sequence[Metrics]], replay: Mapping[str, Sequence[Metrics]]
) -> list[Order]:
    """Every pair of policies; arguments as `compare_metrics`."""
    name = METRICS[0]
    here, there = (
        {policy: np.array([play[name] for play in plays]) for policy, plays in server.items()}
        for server in (live, replay)
    )
    rows = []
    for first, second in combinations(live, 2):
        apart = here[first] - here[second]
        error = float(apart.std(ddof=1)) / math.sqrt(apart.size)
        difference = float((there[first] - there[second]).mean())
        margin = error * float(student_t.ppf(1 - CHANCE / 2, apart.size - 1))
        rows.append(Order(first, second, float(apart.mean()), error, margin, difference))
    return rows
