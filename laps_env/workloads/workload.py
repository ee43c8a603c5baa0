"""The requests of one episode, generated before anything runs and handed to whichever server runs.

A workload is addressed by (split, seed, episode): the same address is the same workload for every
policy, action, environment row and machine word order.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from laps_env.sim.observation import MAX_COUNT, MAX_SECONDS
from laps_env.traces import AcceptanceTrace
from laps_env.utils.splits import Split
from laps_env.workloads.arrivals import ArrivalProcess
from laps_env.workloads.predictors import FEWEST, LengthPredictor
from laps_env.workloads.random import make_key
from laps_env.workloads.requests import Ints, RequestSource

#: Latest arrival: what an observation can show, and a ninth of what an int64 clock can.
LATEST_NS = int(MAX_SECONDS * 1e9)


@dataclass(frozen=True)
class Workload:
    """R requests in order of arrival, with T output tokens in all.

    Attributes:
        arrival_ns: int64 [R], nanoseconds, non-decreasing, 0 .. `LATEST_NS`.
        prompt_tokens: int64 [R], 1 .. 2**24, as all counts that an observation shows exactly.
        output_tokens: int64 [R], 1 .. 2**24, the end-of-sequence token included.
        predicted_tokens: float64 [R], 2**-24 .. 2**24, what a scheduler is told.
        category: int64 [R], index into ``categories``.
        accepted_length: uint8 [T], requests one after the other: how many draft tokens in a row a
            round that starts at this output position would accept.
        max_draft: uint8 [T] or None: how many tokens the drafter can propose there.
        draft_schedule: uint8 [S] or None: given draft lengths, round by round, requests one after
            the other; ``draft_schedule_offset`` int64 [R + 1] says where each request's begin.
        source_index: int64 [R] or None: which recorded trace's request, or which prompt, each one is.
        categories: names.
        source: where lengths and acceptance come from, for the result row.

    Raises:
        ValueError: naming the field and, where it applies, the first request that is wrong.
    """

    arrival_ns: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    predicted_tokens: npt.NDArray[np.float64]
    category: Ints
    accepted_length: npt.NDArray[np.uint8]
    max_draft: npt.NDArray[np.uint8] | None = None
    draft_schedule: npt.NDArray[np.uint8] | None = None
    draft_schedule_offset: Ints | None = None
    source_index: Ints | None = None
    categories: tuple[str, ...] = ("any",)
    source: str = ""
    offset: Ints = field(init=False)

    def __post_init__(self) -> None:
        # The kernel indexes by these without looking: every type, size and range is checked here.
        self._check_array("arrival_ns", np.int64, "R")
        count = self.arrival_ns.size
        if count == 0:
            raise ValueError("workload: expected at least 1 request, got 0")
        for name in ("prompt_tokens", "output_tokens", "category"):
            self._check_array(name, np.int64, count)
        self._check_array("predicted_tokens", np.float64, count)
        self._check_range("arrival_ns", 0, LATEST_NS)
        self._check("arrival_ns", np.diff(self.arrival_ns, prepend=0) >= 0, "non-decreasing")
        self._check_range("prompt_tokens", 1, MAX_COUNT)
        self._check_range("output_tokens", 1, MAX_COUNT)
        self._check_range("predicted_tokens", FEWEST, MAX_COUNT)
        self._check_range("category", 0, len(self.categories) - 1)
        offset = np.concatenate([[0], np.cumsum(self.output_tokens)])
        object.__setattr__(self, "offset", offset)
        self._check_array("accepted_length", np.uint8, offset[-1])
        if self.max_draft is not None:
            self._check_array("max_draft", np.uint8, offset[-1])
        if self.source_index is not None:
            self._check_array("source_index", np.int64, count)
        if (self.draft_schedule is None) != (self.draft_schedule_offset is None):
            raise ValueError("workload: expected draft_schedule and draft_schedule_offset together")
        if self.draft_schedule is not None and self.draft_schedule_offset is not None:
            self._check_schedule(self.draft_schedule, self.draft_schedule_offset)

    def _check_array(self, name: str, dtype: type[np.generic], size: int | str) -> None:
        """``size`` is a number, or "R" or "S" where it is this array that sets it."""
        values = getattr(self, name)
        if not isinstance(values, np.ndarray):
            actual = type(values).__name__
        elif values.dtype != dtype or values.ndim != 1 or size not in (values.size, "R", "S"):
            actual = f"{values.dtype} {values.shape}"
        else:
            return
        raise ValueError(f"workload: {name}: expected {dtype.__name__} [{size}], got {actual}")

    def _check_range(self, name: str, least: float, most: float) -> None:
        values = getattr(self, name)
        self._check(name, (values >= least) & (values <= most), f"{least:.9g}..{most:.9g}")

    def _check(self, name: str, fine: npt.NDArray[np.bool_], expected: str) -> None:
        if not fine.all():
            i = int(np.argmin(fine))
            value = getattr(self, name)[i]
            raise ValueError(f"workload: {name} of request {i}: expected {expected}, got {value}")

    def _check_schedule(self, schedule: npt.NDArray[np.uint8], starts: Ints) -> None:
        """The draft lengths of each request last until its last token."""
        self._check_array("draft_schedule", np.uint8, "S")
        self._check_array("draft_schedule_offset", np.int64, self.num_requests + 1)
        if starts[0] != 0 or starts[-1] != schedule.size:
            raise ValueError(
                f"workload: draft_schedule_offset: expected 0 to {schedule.size}, "
                f"got {starts[0]} to {starts[-1]}"
            )
        position, rounds = self.offset[:-1].copy(), 0
        while (running := np.flatnonzero(position < self.offset[1:])).size:
            rows = starts[running] + rounds
            short = running[rows >= starts[running + 1]]
            if short.size:
                raise ValueError(
                    f"workload: draft_schedule of request {short[0]}: expected draft lengths for "
                    f"all of its rounds, got {rounds}"
                )
            drafted = schedule[rows]
            if self.max_draft is not None:
                drafted = np.minimum(drafted, self.max_draft[position[running]])
            accepted = np.minimum(drafted, self.accepted_length[position[running]])
            position[running] += accepted.astype(np.int64) + 1
            rounds += 1

    @property
    def num_requests(self) -> int:
        """R."""
        return int(self.arrival_ns.size)

    def equals(self, other: Workload) -> bool:
        """Whether every array is equal, bit for bit."""
        return all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )


def replay_recorded(trace: AcceptanceTrace) -> Workload:
    """The recorded requests with the recorded draft lengths, all present at time 0.

    Served by any policy, every round commits exactly what it committed when it was recorded.

    Args:
        trace: with recorded rounds (``schedule``); unrecorded prompt lengths count as 1 token.

    Raises:
        ValueError: the trace holds no rounds.
    """
    if trace.schedule is None or trace.schedule_offset is None:
        raise ValueError(f"{trace.source}: expected recorded rounds (schedule), got none")
    return Workload(
        arrival_ns=np.zeros(trace.num_requests, np.int64),
        prompt_tokens=np.maximum(trace.prompt_tokens, 1),
        output_tokens=np.asarray(trace.output_tokens),
        predicted_tokens=trace.output_tokens.astype(np.float64),
        category=np.asarray(trace.category),
        accepted_length=np.asarray(trace.accepted_length),
        max_draft=None if trace.max_draft is None else np.asarray(trace.max_draft),
        draft_schedule=np.asarray(trace.schedule),
        draft_schedule_offset=np.asarray(trace.schedule_offset),
        categories=trace.categories,
        source=f"recorded rounds of {trace.source}",
    )


@dataclass(frozen=True)
class WorkloadFamily:
    """Everything that defines a workload but its address and its load.

    Attributes:
        requests: what the requests are.
        arrivals: when they come, in gaps of mean 1.
        predictor: what the scheduler is told of their lengths; None where the requests bring it.
    """

    requests: RequestSource
    arrivals: ArrivalProcess
    predictor: LengthPredictor | None

    def draw(
        self, split: Split, seed: int, episode: int, num_requests: int, mean_gap_s: float
    ) -> Workload:
        """The workload at an address.

        Args:
            split: ``train``, ``validation``, ``test`` or ``calibration``.
            seed: >= 0.
            episode: >= 0, counts the episodes of one environment row.
            num_requests: >= 1.
            mean_gap_s: seconds between arrivals on average, >= 0.

        Raises:
            ValueError: arrivals so far apart that the last comes after `LATEST_NS`.
        """
        key = make_key(split, seed)
        drawn = self.requests.draw(key, episode, num_requests, split)
        gaps = self.arrivals.gaps(key, episode, num_requests, split)
        if self.predictor is None:
            assert drawn.predicted_tokens is not None  # the scenario has looked
            predicted = drawn.predicted_tokens
        else:
            predicted = self.predictor.predict(key, episode, drawn.output_tokens)
        arrival_s = np.cumsum(gaps) * mean_gap_s
        if not arrival_s[-1] <= MAX_SECONDS:
            raise ValueError(
                f"load: expected the last of {num_requests} requests within {MAX_SECONDS:g} s, "
                f"got {arrival_s[-1]:g} s at a mean gap of {mean_gap_s:g} s"
            )
        return Workload(
            arrival_ns=np.rint(np.cumsum(gaps) * (mean_gap_s * 1e9)).astype(np.int64),
            prompt_tokens=drawn.prompt_tokens,
            output_tokens=drawn.output_tokens,
            predicted_tokens=predicted,
            category=drawn.category,
            accepted_length=drawn.accepted_length,
            max_draft=drawn.max_draft,
            source_index=drawn.source_index,
            categories=self.requests.categories,
            source=self.requests.name,
        )
