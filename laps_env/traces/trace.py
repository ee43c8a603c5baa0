"""Acceptance traces: how many draft tokens in a row are accepted from every output position.

With greedy decoding this is a property of the text, not of the schedule, so one small array
replays any draft length and any order of serving exactly. docs/traces.md says what each field
means and what the file holds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from msgspec.structs import asdict
from numpy.typing import NDArray

from laps_env.sim.refreshes import refresh_offset
from laps_env.traces.file import FORMAT, VERSION, read_trace_file, write_trace_file
from laps_env.traces.schema import ARRAYS, TraceInfo, check_trace, fail, replay_rounds
from laps_env.utils.files import write_beside


@dataclass(frozen=True, eq=False, kw_only=True)
class AcceptanceTrace:
    """R requests with T output positions in all; position t of request i is offset[i] + t.

    The arrays are read-only. `validate` checks every relation named here and is called by `load`
    and `save`.
    """

    accepted_length: NDArray[np.uint8]
    """[T] Draft tokens accepted in a row by a round that starts here, capped at 255. Runs may
    point past the end of the output."""
    offset: NDArray[np.int64]
    """[R + 1] First position of each request; offset[0] = 0, offset[R] = T."""
    output_tokens: NDArray[np.int64]
    """[R] Output length with the end-of-sequence token, >= 1; equals the steps of `offset`."""
    prompt_tokens: NDArray[np.int64]
    """[R] Prompt length, >= 0; 0 = not recorded."""
    category: NDArray[np.int64]
    """[R] Index into `categories`."""
    categories: tuple[str, ...]
    """Names of the categories, each different."""
    info: TraceInfo
    """Origin of the trace."""
    max_draft: NDArray[np.uint8] | None = None
    """[T] Draft tokens the drafter can propose from here; None = as many as it is asked for."""
    observed: NDArray[np.uint8] | None = None
    """[T] Mark of a position: 1 = measured, 0 = filled by a fitted model; None = all measured."""
    confidence: NDArray[np.uint8] | None = None
    """[T] Probability that the draft gives its token for this position, in 255ths."""
    acceptance: NDArray[np.float32] | None = field(default=None, compare=False)
    """[T] Probability that the draft's token for this position is accepted under sampling, given
    the text before it: the sum over tokens of min(target's, draft's probability), in [0, 1]. Then
    `accepted_length` is one draw of it; None = greedy, or not recorded."""
    group: NDArray[np.int64] | None = None
    """[R] Group of each request; those of one group (the turns of one question) stay together in
    `split`."""
    predicted_tokens: NDArray[np.float64] | None = None
    """[R] Output length as a length predictor saw it at arrival, > 0."""
    refreshed_tokens: NDArray[np.float64] | None = None
    """[F] Output length as predicted after every `info.refresh_every` generated tokens of each
    request that goes on, above these."""
    schedule: NDArray[np.uint8] | None = None
    """[S] Draft length of every recorded round."""
    schedule_offset: NDArray[np.int64] | None = None
    """[R + 1] First recorded round of each request."""
    committed: NDArray[np.uint8] | None = None
    """[S] Tokens committed by every recorded round, accepted drafts + 1."""
    round_ns: NDArray[np.int64] | None = None
    """[S] Measured duration of every recorded round, nanoseconds; a batch's rounds take as long."""
    source: str = field(default="<memory>", compare=False)
    """File that the trace was read from, for messages."""

    def __post_init__(self) -> None:
        for name in ARRAYS:
            array = getattr(self, name)
            if isinstance(array, np.ndarray):
                view = array.view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    @property
    def num_requests(self) -> int:
        """Number of requests, R."""
        return len(self.output_tokens)

    @property
    def refresh_offset(self) -> NDArray[np.int64]:
        """First refresh of each request in `refreshed_tokens`, [R + 1]."""
        return refresh_offset(self.output_tokens, self.info.refresh_every)

    @property
    def observed_share(self) -> float:
        """Share of the positions whose run was measured rather than filled, in [0, 1]."""
        return 1.0 if self.observed is None else float(self.observed.mean())

    def recorded_alpha(self) -> NDArray[np.float64]:
        """Per-request alpha of the recorded rounds, accepted / (accepted + rejections), [R].

        NaN where a request has neither.

        Raises:
            TraceError: No `schedule` or no `committed`.
        """
        if self.schedule is None or self.schedule_offset is None or self.committed is None:
            self._fail("committed", "recorded rounds", "none")
        drafted = self.schedule
        if self.max_draft is not None:
            starts = np.cumsum(self.committed, dtype=np.int64) - self.committed
            drafted = np.minimum(drafted, self.max_draft[starts])
        accepted, trials = acceptance_counts(self.committed, drafted, self.schedule_offset)
        with np.errstate(invalid="ignore"):
            return accepted / trials

    def replay(self) -> NDArray[np.int64]:
        """Tokens committed in every recorded round when `schedule` is replayed, int64 [S].

        The rule is that of `laps_env.sim.commit`.

        Raises:
            TraceError: No recorded rounds, or a schedule that is too short or too long for an
                output.
        """
        if self.schedule is None or self.schedule_offset is None:
            self._fail("schedule", "recorded rounds", "none")
        return replay_rounds(self.source, self._arrays())

    def select(self, requests: NDArray[np.int64]) -> AcceptanceTrace:
        """The trace of these requests, in this order."""

        def flat(offset: NDArray[np.int64]) -> NDArray[np.int64]:
            parts = [np.arange(offset[i], offset[i + 1]) for i in requests]
            return np.concatenate([np.empty(0, np.int64), *parts])

        def offsets(offset: NDArray[np.int64]) -> NDArray[np.int64]:
            return np.concatenate([[0], np.cumsum(np.diff(offset)[requests])]).astype(np.int64)

        index = {
            "request": np.asarray(requests, np.int64),
            "position": flat(self.offset),
            "refresh": flat(self.refresh_offset),
        }
        if self.schedule_offset is not None:
            index["round"] = flat(self.schedule_offset)
        chosen: dict[str, Any] = {}
        for name, array in self._arrays().items():
            axis = ARRAYS[name][1]
            chosen[name] = offsets(array) if axis == "request + 1" else array[index[axis]]
        return replace(self, **chosen)

    def of_categories(self, names: Sequence[str]) -> AcceptanceTrace:
        """The requests of these categories, which are then all that the trace knows.

        Raises:
            TraceError: A name that is no category of the trace.
        """
        unknown = [name for name in names if name not in self.categories]
        if unknown:
            self._fail("categories", f"some of {list(self.categories)}", unknown)
        place = np.array([[*names, name].index(name) for name in self.categories], np.int64)
        chosen = self.select(np.flatnonzero(place[self.category] < len(names)))
        return replace(chosen, category=place[chosen.category], categories=tuple(names))

    def split(self, seed: int, train_share: float) -> tuple[AcceptanceTrace, AcceptanceTrace]:
        """Divide the requests at random into two traces, train and evaluation.

        Args:
            seed: Seed of the random choice.
            train_share: Share of the groups (without groups: of the requests) that are in the
                first trace, in (0, 1); both get at least one.

        Raises:
            TraceError: A share out of range, or fewer than two groups.
        """
        if not 0 < train_share < 1:
            self._fail("train_share", "a share between 0 and 1", train_share)
        group = np.arange(self.num_requests) if self.group is None else self.group
        groups = np.unique(group)
        if len(groups) < 2:
            self._fail("group", "at least 2 groups to split", len(groups))
        count = min(max(round(train_share * len(groups)), 1), len(groups) - 1)
        train = np.random.default_rng(seed).permutation(groups)[:count]
        in_train = np.isin(group, train)
        return self.select(np.flatnonzero(in_train)), self.select(np.flatnonzero(~in_train))

    def save(self, path: str | Path) -> None:
        """Check the trace and write it in one move. The usual ending is ``.safetensors``.

        Raises:
            TraceError: A trace that is not valid.
            OSError: The file cannot be written.
        """
        arrays = self._arrays()
        check_trace(str(path), arrays, self.categories, self.info)
        write_trace_file(Path(path), arrays, self.categories, self.info)

    @classmethod
    def load(cls, path: str | Path) -> AcceptanceTrace:
        """Read and check a trace.

        Raises:
            TraceError: A file that holds no valid trace; the message names the file, the request
                and the field, what was expected and what came.
            OSError: The file cannot be read.
        """
        arrays, header = read_trace_file(Path(path))
        check_trace(str(path), arrays, header.categories, header.info)
        categories = tuple(header.categories)
        return cls(**arrays, categories=categories, info=header.info, source=str(path))

    def export_jsonl(self, path: str | Path) -> None:
        """Write a header line and then one JSON object per request, for tools of others."""
        head = {"format": FORMAT, "version": VERSION, "info": asdict(self.info)}
        lines = [json.dumps(head)]
        parts = {
            "position": self.offset,
            "refresh": self.refresh_offset,
            "round": self.schedule_offset,
        }
        for i in range(self.num_requests):
            row: dict[str, Any] = {"request": i, "category": self.categories[self.category[i]]}
            for name, array in self._arrays().items():
                axis = ARRAYS[name][1]
                if axis == "request" and name != "category":
                    row[name] = array[i].item()
                elif axis in parts:
                    offset = parts[axis]
                    assert offset is not None  # validate: rounds come with their offsets
                    row[name] = array[offset[i] : offset[i + 1]].tolist()
            lines.append(json.dumps(row))
        write_beside(Path(path), [("\n".join(lines) + "\n").encode()])

    def validate(self) -> None:
        """Raise TraceError naming the file, the request and the field that is wrong."""
        check_trace(self.source, self._arrays(), self.categories, self.info)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        present = {name: getattr(self, name) for name in ARRAYS}
        return {name: array for name, array in present.items() if array is not None}

    def _fail(self, name: str, expected: object, actual: object) -> NoReturn:
        fail(self.source, None, name, expected, actual)


def acceptance_counts(
    committed: NDArray[Any], drafted: NDArray[Any], round_offset: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Accepted draft tokens [R] and trials [R] (accepted + rejections) of recorded rounds.

    The last round of a request is never counted as a rejection: the end of the output may have
    cut it short.
    """
    accepted = np.asarray(committed, np.int64) - 1
    rejected = accepted < drafted
    rejected[round_offset[1:] - 1] = False
    first = round_offset[:-1]
    hits = np.add.reduceat(accepted, first)
    return hits, hits + np.add.reduceat(rejected.astype(np.int64), first)
