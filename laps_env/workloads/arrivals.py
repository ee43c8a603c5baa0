"""When requests arrive: processes with gaps of mean 1, scaled to a load afterwards.

Lengths and acceptance never depend on the arrival process, and gaps never depend on the load:
the same seed at another load is the same workload, stretched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from laps_env.traces.arrival_trace import ArrivalTrace
from laps_env.utils.checks import check_one_of
from laps_env.utils.jit import jit
from laps_env.utils.splits import Split
from laps_env.workloads.random import ARRIVALS, Key, normals, uniforms

Gaps = npt.NDArray[np.float64]
Scaling = Literal["half", "window"]


class ArrivalProcess(Protocol):
    """Anything that draws gaps of mean 1 from an address (`laps_env.workloads.random`)."""

    def gaps(self, key: Key, episode: int, count: int, split: Split) -> Gaps:
        """Gaps [count] of a workload of this split."""


@dataclass(frozen=True)
class Poisson:
    """Independent exponential gaps; recorded chat traffic is close to it (CV of gaps 1.09)."""

    def gaps(self, key: Key, episode: int, count: int, split: Split) -> Gaps:
        """Gaps [count] of mean 1."""
        gaps = np.empty(count)
        _exponential_gaps(key, episode, gaps)
        return gaps


@dataclass(frozen=True)
class GammaGaps:
    """Independent Gamma gaps: bursty for a coefficient of variation above 1.

    Attributes:
        cv: Standard deviation / mean of the gaps, > 0.
    """

    cv: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cv) and self.cv > 0):
            raise ValueError(f"cv: expected a finite number > 0, got {self.cv!r}")

    def gaps(self, key: Key, episode: int, count: int, split: Split) -> Gaps:
        """Gaps [count] of mean 1."""
        gaps = np.empty(count)
        _gamma_gaps(key, episode, self.cv**-2, gaps)
        return gaps


@dataclass(frozen=True)
class ModulatedPoisson:
    """A Poisson process that switches between a calm and a burst rate (two-state MMPP).

    Attributes:
        burst_rate: Rate in a burst, in multiples of the mean rate, > 1.
        burst_share: Share of the time spent in bursts, in (0, 1); burst_rate * burst_share < 1.
        burst_length: Mean duration of a burst, in mean gaps, > 0.
    """

    burst_rate: float
    burst_share: float
    burst_length: float

    def __post_init__(self) -> None:
        if not (
            self.burst_rate > 1
            and 0 < self.burst_share < 1
            and self.burst_rate * self.burst_share < 1
            and self.burst_length > 0
        ):
            raise ValueError(
                "expected burst_rate > 1, 0 < burst_share < 1, burst_rate * burst_share < 1 and "
                f"burst_length > 0, got {self}"
            )

    def gaps(self, key: Key, episode: int, count: int, split: Split) -> Gaps:
        """Gaps [count] of mean 1."""
        gaps = np.empty(count)
        calm_rate = (1 - self.burst_rate * self.burst_share) / (1 - self.burst_share)
        calm_length = self.burst_length * (1 - self.burst_share) / self.burst_share
        rates = np.array([calm_rate, self.burst_rate])
        lengths = np.array([calm_length, self.burst_length])
        _modulated_gaps(key, episode, rates, lengths, self.burst_share, gaps)
        return gaps


@dataclass(frozen=True)
class AllAtOnce:
    """Every request is there at time 0 (saturation, makespan)."""

    def gaps(self, key: Key, episode: int, count: int, split: Split) -> Gaps:
        """Gaps [count], all 0."""
        return np.zeros(count)


@dataclass(frozen=True)
class RecordedArrivals:
    """Windows of a recorded trace, their pattern kept.

    A workload starts at a random row of its half of the trace: *test* workloads read the second
    half, all others the first, so nothing is tuned on what it is judged on. Gaps are divided by the
    mean gap of that half; a window that passes the half's end goes on at its start.

    Attributes:
        trace: Recorded arrivals, at least 4, not all of a half at one instant.
        scaling: Stretch of the gaps to a load: ``half``, the same for all windows, so that busy
            hours bring more than the load and quiet ones less; or ``window``, each by itself, so
            that each brings the load (`Scenario.workload`).
    """

    trace: ArrivalTrace
    scaling: Scaling = "half"

    def __post_init__(self) -> None:
        check_one_of("scaling", self.scaling, get_args(Scaling))
        count = self.trace.arrival_ns.size
        if count < 4:
            raise ValueError(f"{self.trace.source}: expected at least 4 arrivals, got {count}")
        for name, split in (("first", Split.TRAIN), ("second", Split.TEST)):
            if not self.mean_gap_s(split) > 0:
                raise ValueError(
                    f"{self.trace.source}: expected arrivals that span some time in either half, "
                    f"got {count} of which the {name} half came at one instant"
                )

    def __str__(self) -> str:
        return f"recorded {self.trace.source}, its second half"

    def rows(self, key: Key, episode: int, count: int, split: Split) -> npt.NDArray[np.int64]:
        """Trace rows [count] of a workload's requests."""
        total = self.trace.arrival_ns.size
        first, last = (total // 2, total) if split == Split.TEST else (0, total // 2)
        u, _ = uniforms(key, ARRIVALS, episode, 0, 0)
        return first + (int(u * (last - first)) + np.arange(count)) % (last - first)

    def mean_gap_s(self, split: Split) -> float:
        """Mean gap in seconds of one half, to play the trace back as it was recorded."""
        times = self.trace.arrival_ns
        half = times[times.size // 2 :] if split == Split.TEST else times[: times.size // 2]
        return float((half[-1] - half[0]) / (half.size - 1) * 1e-9)

    def gaps(self, key: Key, episode: int, count: int, split: Split) -> Gaps:
        """Gaps [count], of mean 1 over the trace's half."""
        rows = self.rows(key, episode, count, split)
        mean = self.mean_gap_s(split) * 1e9
        times = self.trace.arrival_ns
        gaps = (times[rows] - times[rows - 1]) / mean
        half_starts = (rows == 0) | (rows == times.size // 2)
        gaps[half_starts] = 1.0  # no gap was recorded across a seam
        return np.asarray(gaps)


@jit
def _exponential_gaps(key: Key, episode: int, gaps: Gaps) -> None:
    for i in range(gaps.size):
        u, _ = uniforms(key, ARRIVALS, episode, i, 0)
        gaps[i] = -math.log(u)


@jit
def _gamma_gaps(key: Key, episode: int, shape: float, gaps: Gaps) -> None:
    """Marsaglia and Tsang (2000), with their boost for shapes below 1."""
    boosted = shape + 1.0 if shape < 1.0 else shape
    d = boosted - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    for i in range(gaps.size):
        block = 0
        while True:
            z, _ = normals(key, ARRIVALS, episode, i, block)
            u, u_boost = uniforms(key, ARRIVALS, episode, i, block + 1)
            block += 2
            v = (1.0 + c * z) ** 3
            if v > 0 and math.log(u) < 0.5 * z * z + d - d * v + d * math.log(v):
                break
        gaps[i] = d * v / shape
        if shape < 1.0:
            gaps[i] *= u_boost ** (1.0 / shape)


@jit
def _modulated_gaps(
    key: Key,
    episode: int,
    rates: npt.NDArray[np.float64],
    lengths: npt.NDArray[np.float64],
    burst_share: float,
    gaps: Gaps,
) -> None:
    """In a state, the next event is an arrival or a switch, whichever exponential is shorter."""
    u, _ = uniforms(key, ARRIVALS, episode, 0, 0)
    state = 1 if u < burst_share else 0
    for i in range(gaps.size):
        gaps[i] = 0.0
        block = 1  # the first block of request 0 chose the state
        while True:
            u, which = uniforms(key, ARRIVALS, episode, i, block)
            block += 1
            total = rates[state] + 1.0 / lengths[state]
            gaps[i] -= math.log(u) / total
            if which * total < rates[state]:
                break
            state = 1 - state
