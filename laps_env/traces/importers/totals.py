"""Accepted lengths from the totals of each output: its tokens, its rounds, what these accepted.

Where a file does not say what its rounds committed, nothing is known of any position. All of them
are filled, at the alpha with which rounds of the given draft length commit as many tokens on
average: a replay at that draft length takes about as many rounds as were recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.importers.records import Paths, file_category, read_files
from laps_env.traces.importers.requests import Recorded, shared_columns
from laps_env.traces.importers.runs import Fill, filled_trace, run_lengths
from laps_env.traces.schema import MAX_RUN
from laps_env.utils.checks import check_count

#: Most tokens of an output, and rounds: a number alone could fill the memory.
MOST_COUNTED = 2**20

#: A count of tokens or rounds.
Count = Annotated[int, Meta(ge=0, le=MOST_COUNTED)]

#: Weight of the mean of a category against a request's own rounds.
PRIOR_ROUNDS = 20.0


@dataclass(frozen=True, kw_only=True)
class RequestTotals(Recorded):
    """One generated output whose rounds were counted, not recorded.

    Attributes:
        tokens: Output length.
        rounds: Rounds that drafted for it, 0 .. tokens.
        accepted: Draft tokens that they accepted.
    """

    tokens: int
    rounds: int
    accepted: int

    @property
    def output_tokens(self) -> int:
        """Output length."""
        return self.tokens


class Counted(NamedTuple):
    """Counts of one answer: where they stand, its lengths, its rounds and what these accepted."""

    place: str
    prompt_tokens: int
    tokens: int
    rounds: int
    accepted: int


@dataclass
class CountedReader:
    """Reader of one file that has a record for each answer.

    Attributes:
        draft_length: Most draft tokens that a round can accept.
        category: Category of all answers.
        read: Answers read so far, which number their groups.
    """

    draft_length: int
    category: str
    read: int = 0

    def counts(self, record: dict[str, Any]) -> Counted:
        """What a record says.

        Raises:
            ValueError: A record that is not of the format.
        """
        raise NotImplementedError

    def requests(self, record: dict[str, Any]) -> list[RequestTotals]:
        """The one request of a record."""
        place, prompt_tokens, tokens, rounds, accepted = self.counts(record)
        check_accepted(place, accepted, rounds, tokens, self.draft_length)
        if rounds > tokens:
            raise ValueError(f"{place}: expected at most {tokens} rounds, got {rounds}")
        self.read += 1
        return [
            RequestTotals(
                category=self.category,
                group=self.read - 1,
                prompt_tokens=prompt_tokens,
                tokens=tokens,
                rounds=rounds,
                accepted=accepted,
            )
        ]


def import_counted(
    reader: type[CountedReader],
    paths: Paths,
    info: TraceInfo,
    *,
    draft_length: int,
    category: str | None,
    fill: Fill,
    seed: int,
    **errors: Any,
) -> AcceptanceTrace:
    """Read files by a reader; answers without output are left out.

    Args:
        reader: Reader of the format.
        paths: File, or several of one run.
        info: Origin of the run.
        draft_length: Most draft tokens that a round can accept, 1 .. 255.
        category: Category of all answers; None = the file's name.
        fill: Function that draws what was not recorded.
        seed: Seed of the fill.
        **errors: ``on_error`` and ``left_out`` of `laps_env.traces.importers.records.read_files`.

    Raises:
        TraceError: A file or line that is not of the format.
        ValueError: Another draft length.
        OSError: A file cannot be read.
    """
    check_count("draft_length", draft_length, most=MAX_RUN)
    files = read_files(
        paths,
        lambda path: reader(draft_length, category or file_category(path)).requests,
        on_failed="skip",
        **errors,
    )
    return build_from_totals(files, info, draft_length=draft_length, fill=fill, seed=seed)


def build_from_totals(
    files: Mapping[Path, Sequence[RequestTotals]],
    info: TraceInfo,
    *,
    draft_length: int,
    fill: Fill,
    seed: int,
) -> AcceptanceTrace:
    """Make a trace of requests whose rounds were only counted; all its positions are filled.

    Args:
        files: Requests of each file, at least one.
        info: Origin of the run; what `build_trace` adds to its provenance is added here too.
        draft_length: Draft length of all rounds, >= 1.
        fill: Function that draws the acceptance bits.
        seed: Seed of the fill; each request has a stream of its own.

    Raises:
        TraceError: No request, requests of different runs, or such as do not make a trace.
    """
    columns = shared_columns(files, info)
    requests = [request for read in files.values() for request in read]
    alpha = alpha_of_rounds(_shrunk_mean(requests, columns["category"], draft_length), draft_length)
    bits = [
        fill(np.random.default_rng([seed, i]), request.category, float(alpha[i]), request.tokens)
        for i, request in enumerate(requests)
    ]
    run = run_lengths(np.concatenate(bits), columns["offset"])
    return filled_trace(
        columns, run, np.zeros(len(run), bool), consistent=False, fill=fill, seed=seed
    )


def check_accepted(name: str, accepted: int, rounds: int, tokens: int, draft_length: int) -> None:
    """Raise ``ValueError`` where so many rounds cannot have made these tokens of their drafts."""
    if tokens > 1 and rounds == 0:
        raise ValueError(f"{name}: expected rounds for an output of {tokens} tokens, got none")
    most = rounds * draft_length
    if accepted > most:
        expected = f"at most {most} draft tokens accepted in {rounds} rounds that draft up to "
        raise ValueError(f"{name}: expected {expected}{draft_length}, got {accepted}")


def alpha_of_rounds(accepted: NDArray[np.float64], draft_length: int) -> NDArray[np.float64]:
    """Alpha at which a round accepts so many draft tokens on average: the sum of its powers 1 .. n.

    Args:
        accepted: Mean accepted draft tokens per round, in [0, n].
        draft_length: Draft length n, >= 1.
    """
    low, high = np.zeros(len(accepted)), np.ones(len(accepted))
    for _ in range(50):  # halves the interval each time
        alpha = (low + high) / 2
        too_low = np.polyval([*np.ones(draft_length), 0.0], alpha) < accepted
        low, high = np.where(too_low, alpha, low), np.where(too_low, high, alpha)
    return (low + high) / 2


def _shrunk_mean(
    requests: Sequence[RequestTotals], category: NDArray[np.int64], draft_length: int
) -> NDArray[np.float64]:
    """Accepted draft tokens per round [R], with PRIOR_ROUNDS more at the mean of the category.

    A round that accepts half of what it drafts keeps that mean away from the ends.
    """
    rounds = np.array([request.rounds for request in requests], float)
    accepted = np.array([request.accepted for request in requests], float)
    mean = (np.bincount(category, accepted) + draft_length / 2) / (
        np.bincount(category, rounds) + 1
    )
    shrunk: NDArray[np.float64] = (accepted + PRIOR_ROUNDS * mean[category]) / (
        rounds + PRIOR_ROUNDS
    )
    return shrunk
