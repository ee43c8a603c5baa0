"""Accepted lengths from the totals of each output: its tokens, its rounds, what these accepted.

Where a file does not say what its rounds committed, nothing is known of any position. All of them
are filled, at the alpha with which rounds of the given draft length commit as many tokens on
average: a replay at that draft length takes about as many rounds as were recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.importers.requests import Recorded, shared_columns
from laps_env.traces.importers.runs import Fill, filled_trace, run_lengths

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
