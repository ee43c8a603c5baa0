"""The requests of one episode, generated before anything runs and handed to whichever server runs.

A workload is addressed by (set tag, seed, episode): the same address is the same workload for every
policy, action, environment row and machine word order.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from laps_env.traces import AcceptanceTrace
from laps_env.workloads.arrivals import ArrivalProcess
from laps_env.workloads.bodies import BodySource, Ints
from laps_env.workloads.prediction import LengthPredictor
from laps_env.workloads.random import make_key


@dataclass(frozen=True)
class Workload:
    """R requests in order of arrival, with T output tokens in all.

    Attributes:
        arrival_ns: int64 [R], nanoseconds, non-decreasing, >= 0.
        prompt_tokens: int64 [R], >= 1.
        output_tokens: int64 [R], >= 1, the end-of-sequence token included.
        predicted_tokens: float64 [R], > 0, what a scheduler is told.
        category: int64 [R], index into ``categories``.
        accept_run: uint8 [T], requests one after the other: how many draft tokens in a row a round
            that starts at this output position would accept.
        proposable: uint8 [T] or None: how many tokens the drafter can propose there.
        draft_schedule: uint8 [S] or None: given draft lengths, round by round, requests one after
            the other; ``draft_schedule_offset`` int64 [R + 1] says where each request's begin.
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
    accept_run: npt.NDArray[np.uint8]
    proposable: npt.NDArray[np.uint8] | None = None
    draft_schedule: npt.NDArray[np.uint8] | None = None
    draft_schedule_offset: Ints | None = None
    categories: tuple[str, ...] = ("any",)
    source: str = ""
    offset: Ints = field(init=False)

    def __post_init__(self) -> None:
        count = self.arrival_ns.size
        if count == 0:
            raise ValueError("workload: expected at least 1 request, got 0")
        for name in ("prompt_tokens", "output_tokens", "predicted_tokens", "category"):
            if getattr(self, name).shape != (count,):
                raise ValueError(
                    f"workload: {name}: expected shape ({count},), got {getattr(self, name).shape}"
                )
        self._check("arrival_ns", np.diff(self.arrival_ns, prepend=0) >= 0, "non-decreasing, >= 0")
        self._check("prompt_tokens", self.prompt_tokens >= 1, ">= 1")
        self._check("output_tokens", self.output_tokens >= 1, ">= 1")
        predicted = self.predicted_tokens
        self._check("predicted_tokens", np.isfinite(predicted) & (predicted > 0), "finite, > 0")
        known = (self.category >= 0) & (self.category < len(self.categories))
        self._check("category", known, f"0..{len(self.categories) - 1}")
        offset = np.concatenate([[0], np.cumsum(self.output_tokens)])
        object.__setattr__(self, "offset", offset)
        for name in ("accept_run", "proposable"):
            values = getattr(self, name)
            if values is not None and (values.shape, values.dtype) != ((offset[-1],), np.uint8):
                raise ValueError(
                    f"workload: {name}: expected one uint8 per output token, ({offset[-1]},), "
                    f"got {values.dtype} {values.shape}"
                )
        if (self.draft_schedule is None) != (self.draft_schedule_offset is None):
            raise ValueError("workload: expected draft_schedule and draft_schedule_offset together")
        if self.draft_schedule is not None and self.draft_schedule_offset is not None:
            self._check_schedule(self.draft_schedule, self.draft_schedule_offset)

    def _check(self, name: str, fine: npt.NDArray[np.bool_], expected: str) -> None:
        if not fine.all():
            i = int(np.argmin(fine))
            value = getattr(self, name)[i]
            raise ValueError(f"workload: {name} of request {i}: expected {expected}, got {value}")

    def _check_schedule(self, schedule: npt.NDArray[np.uint8], starts: Ints) -> None:
        """The draft lengths of each request last until its last token."""
        if schedule.dtype != np.uint8 or schedule.ndim != 1:
            raise ValueError(
                "workload: draft_schedule: expected uint8 [S], "
                f"got {schedule.dtype} {schedule.shape}"
            )
        shape = (self.num_requests + 1,)
        if starts.shape != shape or starts[0] != 0 or starts[-1] != schedule.size:
            raise ValueError(
                f"workload: draft_schedule_offset: expected shape {shape}, 0 to {schedule.size}, "
                f"got {starts.shape}, {starts[:1]} to {starts[-1:]}"
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
            if self.proposable is not None:
                drafted = np.minimum(drafted, self.proposable[position[running]])
            accepted = np.minimum(drafted, self.accept_run[position[running]])
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
        accept_run=np.asarray(trace.accept_run),
        proposable=None if trace.proposable is None else np.asarray(trace.proposable),
        draft_schedule=np.asarray(trace.schedule),
        draft_schedule_offset=np.asarray(trace.schedule_offset),
        categories=trace.categories,
        source=f"recorded rounds of {trace.source}",
    )


@dataclass(frozen=True)
class WorkloadFamily:
    """Everything that defines a workload but its address and its load.

    Attributes:
        bodies: what the requests are.
        arrivals: when they come, in gaps of mean 1.
        predictor: what the scheduler is told of their lengths.
    """

    bodies: BodySource
    arrivals: ArrivalProcess
    predictor: LengthPredictor

    def draw(
        self, set_tag: str, seed: int, episode: int, num_requests: int, mean_gap_s: float
    ) -> Workload:
        """The workload at an address.

        Args:
            set_tag: ``train``, ``tune``, ``final`` or ``reference``.
            seed: >= 0.
            episode: >= 0, counts the episodes of one environment row.
            num_requests: >= 1.
            mean_gap_s: seconds between arrivals on average, >= 0.
        """
        key = make_key(set_tag, seed)
        heldout = set_tag == "final"
        bodies = self.bodies.draw(key, episode, num_requests, heldout)
        gaps = self.arrivals.gaps(key, episode, num_requests, heldout)
        predicted = self.predictor.predict(key, episode, bodies.output_tokens)
        return Workload(
            arrival_ns=np.rint(np.cumsum(gaps) * (mean_gap_s * 1e9)).astype(np.int64),
            prompt_tokens=bodies.prompt_tokens,
            output_tokens=bodies.output_tokens,
            predicted_tokens=predicted,
            category=bodies.category,
            accept_run=bodies.accept_run,
            proposable=bodies.proposable,
            categories=self.bodies.categories,
            source=self.bodies.name,
        )
