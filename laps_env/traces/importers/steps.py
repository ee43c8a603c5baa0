"""Step logs (`laps_env.traces.step_log`), which our scheduler for vLLM writes.

Every step of every request is known, those that drafted nothing too. A step that commits nothing
computes a part of a prompt, and is no round. The first token comes with the end of the prompt, and
one more with the end of each computation of what a pre-emption has dropped: rounds that draft
nothing. A request that was aborted, or that never left, is left out.

What the drafter can propose from a position is known where a round began: as much as it proposed,
or any number where that was the run's whole draft length. At the other positions it is drawn from
the request's own rounds behind its first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import asdict
from numpy.typing import NDArray

from laps_env.traces import AcceptanceTrace, TraceError, TraceInfo
from laps_env.traces.importers.records import (
    LeftOut,
    OnError,
    Paths,
    file_category,
    read_files,
)
from laps_env.traces.importers.runs import Fill, RecordedRequest, bernoulli_fill, build_trace
from laps_env.traces.importers.step_lines import LogLines
from laps_env.traces.schema import MAX_RUN
from laps_env.traces.step_log import EngineStep, LeftRequest, RunHeader

#: Tokens committed, tokens drafted, nanoseconds.
_Round = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class LoggedRequest(RecordedRequest):
    """An output with what a step log knows beside its rounds.

    Attributes:
        round_ns: Duration of each round's step [rounds], nanoseconds.
        predicted_tokens: Output length as predicted at arrival; None without a prediction.
    """

    round_ns: NDArray[np.int64]
    predicted_tokens: float | None


def import_steps(
    paths: Paths,
    *,
    fill: Fill = bernoulli_fill,
    seed: int = 0,
    on_error: OnError = "raise",
    left_out: LeftOut | None = None,
) -> AcceptanceTrace:
    """Read the requests that a server completed, with every one of their rounds.

    The origin of the run is what the logs' headers say. Predictions are taken over where every
    request has one. A last line that is cut off is left out.

    Args:
        paths: File of lines, or several of one run, plain or gzip.
        fill: Function that draws what was not recorded.
        seed: Seed of the fill.
        on_error: Treatment of a malformed line: "raise" the error, or "skip" the line.
        left_out: Report, to which skipped lines and requests that were not completed are added.

    Raises:
        TraceError: A file or line that is not of the format, logs of different runs, or a request
            whose steps do not make its output; the message names the file, the line and the member.
        OSError: A file cannot be read.
    """
    readers: dict[Path, _Reader] = {}

    def parser_of(path: Path) -> Any:
        readers[path] = _Reader(path, left_out or LeftOut())
        return readers[path].requests

    files = read_files(paths, parser_of, on_error=on_error, on_cut="skip", left_out=left_out)
    for reader in readers.values():
        reader.end_of_server()
    requests = [request for read in files.values() for request in read]
    header = next((reader.lines.header for reader in readers.values() if reader.lines.header), None)
    if not requests or header is None:
        raise TraceError(f"{', '.join(map(str, files))}: expected a completed request, got none")
    info = TraceInfo(
        drafter=header.drafter.replace("_", "-") or "none",
        target_model=header.target,
        draft_model=header.draft,
    )
    plain = header.drafter == "draft_model"
    trace = build_trace(files, info, plain_draft=plain, fill=fill, seed=seed)
    predicted = [request.predicted_tokens for request in requests]
    trace = replace(
        trace,
        round_ns=np.concatenate([request.round_ns for request in requests]),
        max_draft=_max_draft(requests, header.draft_length, seed),
        predicted_tokens=None if None in predicted else np.array(predicted, np.float64),
    )
    trace.validate()
    return trace


def _max_draft(
    requests: Sequence[LoggedRequest], draft_length: int, seed: int
) -> NDArray[np.uint8]:
    """Draft tokens that can be proposed from each position [T] (see the module)."""
    parts = []
    for i, request in enumerate(requests):
        proposed = np.where(request.drafted < draft_length, request.drafted, MAX_RUN)
        rng = np.random.default_rng([seed, i, 1])  # not the stream of the fill
        drawn = rng.choice(proposed[1:] if len(proposed) > 1 else proposed, request.output_tokens)
        drawn[np.cumsum(request.committed) - request.committed] = proposed
        parts.append(drawn)
    return np.concatenate(parts).astype(np.uint8)


@dataclass
class _Reader:
    """Reader of one file's lines, which puts the rounds of a request together."""

    path: Path
    left_out: LeftOut
    lines: LogLines = field(default_factory=LogLines)
    rounds: defaultdict[str, list[_Round]] = field(default_factory=lambda: defaultdict(list))
    gone: set[str] = field(default_factory=set)
    read: int = 0

    def requests(self, record: dict[str, Any]) -> list[LoggedRequest]:
        """The request of a line that completes one, else none."""
        line = self.lines.parse(record)
        if isinstance(line, RunHeader):
            self.end_of_server()
        elif isinstance(line, EngineStep):
            for share in line.requests:
                rounds = self.rounds[share.id]  # none yet while its prompt is computed
                if share.committed:
                    rounds.append((share.committed, share.drafted, round(line.duration_s * 1e9)))
        else:
            return list(self._leave(line))
        return []

    def end_of_server(self) -> None:
        """Count the requests that have not left; the ids that follow are another server's."""
        for name in self.rounds.keys() - self.gone:  # an aborted one may be in a step behind it
            message = f"{self.path}: request {name!r}: expected a line of its own, got none"
            self.left_out.add("not finished", message)
        self.rounds.clear()
        self.gone.clear()

    def _leave(self, request: LeftRequest) -> Iterator[LoggedRequest]:
        if request.id in self.gone:
            raise ValueError(f"request.id: expected one that has not left, got {request.id!r}")
        self.gone.add(request.id)
        rounds = np.array(self.rounds.pop(request.id, []), np.int64)
        if request.reason == "abort":
            self.left_out.add("aborted", f"{self.path}: request {request.id!r}")
            return
        committed, drafted, round_ns = rounds.reshape(-1, 3).T
        if not committed.size or committed.sum() != request.output_tokens:
            expected = f"the {committed.sum()} tokens of its steps, at least one"
            raise ValueError(
                f"request.output_tokens: expected {expected}, got {request.output_tokens}"
            )
        assert self.lines.header is not None  # its line is the first
        self.read += 1
        yield LoggedRequest(
            category=request.category or file_category(self.path),
            group=self.read - 1,
            prompt_tokens=request.prompt_tokens,
            run=asdict(self.lines.header),
            committed=committed,
            drafted=drafted,
            round_ns=round_ns,
            predicted_tokens=request.predicted_tokens,
        )
