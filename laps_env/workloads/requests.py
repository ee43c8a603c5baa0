"""What requests are, before it is known when they come: generated or recorded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from laps_env.traces import AcceptanceTrace
from laps_env.utils.checks import check_not_negative, check_positive
from laps_env.utils.splits import Split
from laps_env.workloads.acceptance import (
    ChainProfile,
    draw_accepted_lengths,
    draw_attributes,
    sample_accepted_lengths,
    shifted,
)
from laps_env.workloads.arrivals import RecordedArrivals
from laps_env.workloads.confidence import (
    CONCENTRATION,
    accepted_share,
    confidence_table,
    draw_confidences,
)
from laps_env.workloads.drift import Drift, Shifts
from laps_env.workloads.random import ATTRIBUTES, Key, uniforms
from laps_env.workloads.refreshes import REFRESH_ERROR, REFRESH_EVERY, draw_refreshes

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Requests:
    """Requests before it is known when they come (arrays as in `Workload`)."""

    prompt_tokens: Ints
    output_tokens: Ints
    category: Ints
    accepted_length: npt.NDArray[np.uint8]
    max_draft: npt.NDArray[np.uint8] | None = None
    predicted_tokens: npt.NDArray[np.float64] | None = None
    source_index: Ints | None = None
    confidence: npt.NDArray[np.uint8] | None = None
    refresh_every: int = 0
    refreshed_tokens: npt.NDArray[np.float64] | None = None
    shifts: Shifts | None = None


class RequestSource(Protocol):
    """Anything that draws requests from an address: a generator or a recorded trace."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the task categories."""

    @property
    def name(self) -> str:
        """Origin of lengths and acceptance."""

    @property
    def has_predictions(self) -> bool:
        """Whether a length predictor's own predictions come with the requests."""

    @property
    def has_refreshes(self) -> bool:
        """Whether predictions can be refreshed while requests run."""

    def draw(
        self,
        key: Key,
        episode: int,
        count: int,
        split: Split,
        *,
        confidences: bool = False,
        refreshes: bool = False,
    ) -> Requests:
        """``count`` requests of a workload of this split.

        Args:
            key: Key of the workload.
            episode: Number of the episode.
            count: Number of requests.
            split: Part of all traffic.
            confidences: Whether the draft's confidences come with them.
            refreshes: Whether refreshed predictions do, which there have to be.

        Raises:
            ValueError: Confidences are asked for where none were recorded.
        """


@dataclass(frozen=True)
class GeneratedRequests:
    """Requests from fitted profiles (`laps_env.workloads.acceptance`), categories mixed at random.

    Attributes:
        profiles: Profiles by name.
        weights: Share of each profile, > 0, normalised here.
        longest_tokens: Length at which prompts and outputs are cut.
        lengths: Arrival trace whose prompt and output lengths are taken instead, so that only
            category and acceptance are drawn; or None.
        family: Name of the profiles' family.
        concentration: How little the draft's confidences know beyond alpha, > 0
            (`laps_env.workloads.confidence`).
        drift: How the traffic changes, or None.
        refresh_error: Deviation of log(told / true) of what is left, in refreshed predictions, >= 0
            (`laps_env.workloads.refreshes`).
    """

    profiles: dict[str, ChainProfile]
    weights: tuple[float, ...]
    longest_tokens: int
    lengths: RecordedArrivals | None = None
    family: str = ""
    concentration: float = field(default=CONCENTRATION, compare=False)
    drift: Drift | None = field(default=None, compare=False)
    refresh_error: float = field(default=REFRESH_ERROR, compare=False)

    def __post_init__(self) -> None:
        _check_weights(self.weights, len(self.profiles))
        check_positive("concentration", self.concentration)
        check_not_negative("refresh_error", self.refresh_error)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the profiles."""
        return tuple(self.profiles)

    @property
    def name(self) -> str:
        """Origin of lengths and acceptance."""
        lengths = f", lengths of {self.lengths.trace.source}" if self.lengths else ""
        return f"generator {self.family}{lengths}"

    @property
    def has_predictions(self) -> bool:
        """Generated lengths have no text to predict them from."""
        return False

    @property
    def has_refreshes(self) -> bool:
        """An error model stands for them."""
        return True

    def draw(
        self,
        key: Key,
        episode: int,
        count: int,
        split: Split,
        *,
        confidences: bool = False,
        refreshes: bool = False,
    ) -> Requests:
        """``count`` requests."""
        table = np.stack([p.numbers() for p in self.profiles.values()])[None]
        weights, shifts = np.array([self.weights]), None
        if self.drift is not None:
            shifts = self.drift.draw(key, episode, count, len(self.profiles))
            table, weights = shifted(table[0], shifts), weights * np.exp(shifts.mix)
        mix = np.cumsum(weights, axis=1) / np.sum(weights, axis=1, keepdims=True)
        category, prompt, output = (np.empty(count, np.int64) for _ in range(3))
        draw_attributes(key, episode, table, mix, self.longest_tokens, category, prompt, output)
        if self.lengths is not None:
            rows = self.lengths.rows(key, episode, count, split)
            prompt = np.clip(self.lengths.trace.prompt_tokens[rows], 1, self.longest_tokens)
            output = np.clip(self.lengths.trace.output_tokens[rows], 1, self.longest_tokens)
        offset = np.concatenate([[0], np.cumsum(output)])
        accepted_length = np.empty(offset[-1], np.uint8)
        draw_accepted_lengths(key, episode, table, category, output, offset, accepted_length)
        drawn = Requests(prompt, output, category, accepted_length, shifts=shifts)
        if refreshes:
            told = draw_refreshes(key, episode, output, self.refresh_error)
            drawn = replace(drawn, refresh_every=REFRESH_EVERY, refreshed_tokens=told)
        if not confidences:
            return drawn
        confidence = np.empty(offset[-1], np.uint8)
        shares = np.array([accepted_share(profile) for profile in self.profiles.values()])
        laws = confidence_table(self.concentration)
        draw_confidences(key, episode, shares, category, offset, accepted_length, laws, confidence)
        return replace(drawn, confidence=confidence)


@dataclass(frozen=True)
class RecordedRequests:
    """Requests drawn with replacement from recorded requests.

    Where their acceptance under sampling was recorded, each one's accepted lengths are drawn anew.

    *Test* workloads draw from ``test``, all others from ``train``; the two share no question.

    Attributes:
        train, test: Two traces with the same categories (`AcceptanceTrace.split`).
        name: Origin of lengths and acceptance.
        weights: Share of each category, > 0, normalised here; None draws all requests alike.
    """

    train: AcceptanceTrace
    test: AcceptanceTrace
    name: str
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None:
            _check_weights(self.weights, len(self.categories))
            for part, trace in (("train", self.train), ("test", self.test)):
                members = np.bincount(trace.category, minlength=len(self.categories))
                if (members == 0).any():
                    missing = self.categories[int(members.argmin())]
                    raise ValueError(f"mix: expected requests of {missing} for {part}, got none")

    @property
    def categories(self) -> tuple[str, ...]:
        """Names, as in the trace."""
        return self.train.categories

    @property
    def has_predictions(self) -> bool:
        """Whether both traces carry predicted lengths."""
        return self.train.predicted_tokens is not None and self.test.predicted_tokens is not None

    @property
    def has_refreshes(self) -> bool:
        """Whether both traces carry predictions and refreshes of them, equally often."""
        every = {trace.info.refresh_every for trace in (self.train, self.test)}
        return self.has_predictions and len(every - {0}) == len(every) == 1

    def _chances(self, trace: AcceptanceTrace) -> npt.NDArray[np.float64] | None:
        """The probability of each recorded request: its category's share, divided evenly."""
        if self.weights is None:
            return None
        share = np.array(self.weights) / np.sum(self.weights)
        members = np.bincount(trace.category, minlength=share.size)
        return share[trace.category] / members[trace.category]

    def draw(
        self,
        key: Key,
        episode: int,
        count: int,
        split: Split,
        *,
        confidences: bool = False,
        refreshes: bool = False,
    ) -> Requests:
        """``count`` requests."""
        trace = self.test if split == Split.TEST else self.train
        rows = draw_rows(key, episode, count, trace.num_requests, self._chances(trace))
        flat = _flat_positions(trace.offset, rows)
        if confidences and trace.confidence is None:
            raise ValueError(
                f"confidence: expected recorded confidences of the draft, {self.name} has none"
            )
        output = trace.output_tokens[rows].astype(np.int64)
        accepted_length = np.asarray(trace.accepted_length)[flat]
        if trace.acceptance is not None:
            offset = np.concatenate([[0], np.cumsum(output)])
            chances = np.asarray(trace.acceptance)[flat]
            sample_accepted_lengths(key, episode, chances, offset, accepted_length)
        return Requests(
            trace.prompt_tokens[rows].astype(np.int64),
            output,
            trace.category[rows].astype(np.int64),
            accepted_length,
            None if trace.max_draft is None else np.asarray(trace.max_draft)[flat],
            None if trace.predicted_tokens is None else trace.predicted_tokens[rows],
            rows,
            np.asarray(trace.confidence)[flat] if confidences else None,
            trace.info.refresh_every if refreshes else 0,
            np.asarray(trace.refreshed_tokens)[_flat_positions(trace.refresh_offset, rows)]
            if refreshes
            else None,
        )


def _check_weights(weights: tuple[float, ...], count: int) -> None:
    if not weights or len(weights) != count or not all(weight > 0 for weight in weights):
        raise ValueError(f"weights: expected {count} numbers > 0, got {weights!r}")


def draw_rows(
    key: Key,
    episode: int,
    count: int,
    total: int,
    chances: npt.NDArray[np.float64] | None = None,
) -> Ints:
    """Which of ``total`` recorded requests each one is, with replacement; int64 [count].

    Args:
        key: Key of the workload.
        episode: Number of the episode.
        count: Number of requests to draw.
        total: Number of recorded requests.
        chances: Probability of each, float64 [total]; None draws all alike.
    """
    u = np.array([uniforms(key, ATTRIBUTES, episode, i, 0)[0] for i in range(count)])
    if chances is None:
        return (u * total).astype(np.int64)
    return np.minimum(np.searchsorted(np.cumsum(chances), u, side="right"), total - 1)


def _flat_positions(offset: Ints, rows: Ints) -> Ints:
    """Positions of the chosen requests' tokens in the flat arrays, one request after the other."""
    lengths = offset[rows + 1] - offset[rows]
    ends = np.cumsum(lengths)
    return np.repeat(offset[rows] - (ends - lengths), lengths) + np.arange(ends[-1])
