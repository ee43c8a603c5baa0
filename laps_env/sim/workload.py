"""The requests of one episode, given before anything runs, to whichever server runs them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from laps_env.sim.commit import ANY_DRAFT, replay_schedule
from laps_env.utils.checks import MAX_COUNT, MAX_SECONDS

Ints = npt.NDArray[np.int64]

#: Latest arrival: what an observation can show, and a ninth of what an int64 clock can.
LATEST_NS = int(MAX_SECONDS * 1e9)

#: Least and largest prediction in tokens; a predictor that errs by more is cut there.
LEAST_PREDICTION, LARGEST_PREDICTION = 1 / MAX_COUNT, MAX_COUNT


@dataclass(frozen=True)
class Workload:
    """R requests in order of arrival, with T output tokens in all.

    Attributes:
        arrival_ns: Arrival times, int64 [R], nanoseconds, non-decreasing, 0 .. `LATEST_NS`.
        prompt_tokens: Prompt lengths, int64 [R], 1 .. 2**24, which an observation shows exactly.
        output_tokens: Output lengths, int64 [R], 1 .. 2**24, the end-of-sequence token included.
        predicted_tokens: Output lengths as a scheduler is told, float64 [R], 2**-24 .. 2**24.
        category: Task categories, int64 [R], indices into ``categories``.
        accepted_length: Draft tokens in a row that a round would accept that starts at each output
            position, uint8 [T], requests one after the other.
        max_draft: Most tokens that the drafter can propose there, uint8 [T], or None for any.
        confidence: Probability that the draft gives its token for each output position, in 255ths,
            uint8 [T], or None where it is not known or not needed.
        draft_schedule: Given draft lengths, round by round, uint8 [S], requests one after the
            other, or None.
        draft_schedule_offset: First round of each request in the schedule, int64 [R + 1], or None.
        limits_ns: Limits of each request in nanoseconds: to the first token, per output token
            behind it, to the last; int64 [R, 3], >= 1 (`laps_env.sim.state.NO_LIMIT`: none), or
            None where no request has any.
        source_index: Recorded request, or prompt, that each one is, int64 [R], or None.
        categories: Names of the task categories.
        source: Origin of lengths and acceptance, for the result row.

    Raises:
        ValueError: A field is wrong; the message names it and, where it applies, the first request.
    """

    arrival_ns: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    predicted_tokens: npt.NDArray[np.float64]
    category: Ints
    accepted_length: npt.NDArray[np.uint8]
    max_draft: npt.NDArray[np.uint8] | None = None
    confidence: npt.NDArray[np.uint8] | None = None
    draft_schedule: npt.NDArray[np.uint8] | None = None
    draft_schedule_offset: Ints | None = None
    limits_ns: Ints | None = None
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
        self._check_range("predicted_tokens", LEAST_PREDICTION, LARGEST_PREDICTION)
        self._check_range("category", 0, len(self.categories) - 1)
        offset = np.concatenate([[0], np.cumsum(self.output_tokens)])
        object.__setattr__(self, "offset", offset)
        self._check_array("accepted_length", np.uint8, offset[-1])
        for name in ("max_draft", "confidence"):
            if getattr(self, name) is not None:
                self._check_array(name, np.uint8, offset[-1])
        if self.source_index is not None:
            self._check_array("source_index", np.int64, count)
        if self.limits_ns is not None:
            self._check_limits(self.limits_ns, count)
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

    def _check_limits(self, limits_ns: Ints, count: int) -> None:
        shape, kind = np.shape(limits_ns), getattr(limits_ns, "dtype", None)
        if shape != (count, 3) or kind != np.int64:
            raise ValueError(
                f"workload: limits_ns: expected int64 [{count}, 3], got {kind} {list(shape)}"
            )
        self._check("limits_ns", np.all(limits_ns >= 1, axis=1), ">= 1")

    def _check_schedule(self, schedule: npt.NDArray[np.uint8], starts: Ints) -> None:
        """The draft lengths of each request last until its last token."""
        self._check_array("draft_schedule", np.uint8, "S")
        self._check_array("draft_schedule_offset", np.int64, self.num_requests + 1)
        if starts[0] != 0 or starts[-1] != schedule.size or (np.diff(starts) < 0).any():
            raise ValueError(
                f"workload: draft_schedule_offset: expected 0 to {schedule.size}, non-decreasing, "
                f"got {starts[0]} to {starts[-1]}"
            )
        committed = np.empty(schedule.size, np.int64)
        rounds, reached = (np.empty(self.num_requests, np.int64) for _ in range(2))
        replay_schedule(
            self.offset,
            self.accepted_length,
            ANY_DRAFT if self.max_draft is None else self.max_draft,
            schedule,
            starts,
            committed,
            rounds,
            reached,
        )
        short = np.flatnonzero(reached < self.output_tokens)
        if short.size:
            raise ValueError(
                f"workload: draft_schedule of request {short[0]}: expected draft lengths for "
                f"all of its rounds, got {rounds[short[0]]}"
            )

    @property
    def num_requests(self) -> int:
        """Number of requests, R."""
        return int(self.arrival_ns.size)

    def equals(self, other: Workload) -> bool:
        """Whether every array is equal, bit for bit."""
        return all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )
