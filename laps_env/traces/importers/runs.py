"""Accepted lengths at every position from recorded rounds.

A round that starts at position t, drafts g tokens and commits a of them has accepted a - 1. Unless
it is the last of its output (which the end may have cut short):

* a - 1 < g: the run at t is exactly a - 1;
* a - 1 = g: the run at t is at least g.

With a *plain draft model* under greedy decoding there is one bit per position, "the draft's next
token after the true prefix is the target's", so a round also tells the bits of every position it
passes: t .. t + a - 2 are 1, and t + a - 1 is 0 or, after a full acceptance, unknown. With an
n-gram or EAGLE-style drafter it tells the run at t and nothing else.

What is not known is filled with bits from a `Fill` and marked unobserved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from laps_env.traces import AcceptanceTrace, TraceInfo, acceptance_counts
from laps_env.traces.importers.requests import Recorded, offsets, shared_columns
from laps_env.traces.schema import MAX_RUN

Fill = Callable[[np.random.Generator, str, float, int], NDArray[np.bool_]]
"""fill(rng, category, observed_alpha, count) -> [count] acceptance bits, in order of position.
observed_alpha is the request's own alpha, shrunk to the mean of its category."""

#: Weight of the category's mean alpha against a request's own trials.
PRIOR_TRIALS = 20.0


def bernoulli_fill(
    rng: np.random.Generator, category: str, observed_alpha: float, count: int
) -> NDArray[np.bool_]:
    """Independent bits of rate `observed_alpha`: the simplest fill."""
    return rng.random(count) < observed_alpha


@dataclass(frozen=True, kw_only=True)
class RecordedRequest(Recorded):
    """One generated output as recorded, round by round.

    Attributes:
        committed: Tokens committed by each round [rounds], 1 .. drafted + 1.
        drafted: Draft tokens proposed in each round [rounds], 0 .. 255.
    """

    committed: NDArray[np.int64]
    drafted: NDArray[np.int64]

    @property
    def output_tokens(self) -> int:
        """Output length: what the rounds committed."""
        return int(self.committed.sum())


def build_trace(
    files: Mapping[Path, Sequence[RecordedRequest]],
    info: TraceInfo,
    *,
    plain_draft: bool,
    fill: Fill = bernoulli_fill,
    seed: int = 0,
) -> AcceptanceTrace:
    """Make a trace of requests whose every round was recorded.

    Args:
        files: Requests of each file, at least one.
        info: Origin of the run; the files, what they say of the run, the seed and the share of
            filled positions are added to its provenance.
        plain_draft: Whether the drafter is a model of its own under greedy decoding.
        fill: Function that draws what was not recorded.
        seed: Seed of the fill; each request has a stream of its own.

    Raises:
        TraceError: No request, requests of different runs, or such as do not make a trace.
    """
    columns = shared_columns(files, info)
    offset, category = columns["offset"], columns["category"]
    requests = [request for read in files.values() for request in read]
    committed = np.concatenate([request.committed for request in requests])
    drafted = np.concatenate([request.drafted for request in requests])
    round_offset = offsets(np.array([len(request.committed) for request in requests], np.int64))
    alpha = _shrunk_alpha(committed, drafted, round_offset, category)

    def filled(i: int, count: int) -> NDArray[np.bool_]:
        rng = np.random.default_rng([seed, i])
        return fill(rng, requests[i].category, float(alpha[i]), count)

    ends = np.cumsum(committed)
    decided = committed - 1 < drafted
    decided[round_offset[1:] - 1] = False
    if plain_draft:
        bits = np.ones(offset[-1], bool)
        bits[ends - 1] = False
        unknown = np.zeros(offset[-1], bool)
        unknown[ends[~decided] - 1] = True
        # A run is known if it stops at a known rejection, or passes the largest run that is kept.
        stop = _next_zero(bits, offset)
        observed = ~unknown[stop] | (stop - np.arange(offset[-1]) >= MAX_RUN)
        for i in range(len(requests)):
            places = offset[i] + np.flatnonzero(unknown[offset[i] : offset[i + 1]])
            bits[places] = filled(i, len(places))
        run = run_lengths(bits, offset)
    else:
        bits = np.concatenate(
            [filled(i, request.output_tokens) for i, request in enumerate(requests)]
        )
        run = run_lengths(bits, offset)
        starts = ends - committed
        # A run that was not seen to stop goes on as the filled bits do behind it.
        run[starts] = committed - 1 + np.where(decided, 0, run[ends - 1])
        observed = np.zeros(offset[-1], bool)
        observed[starts[decided]] = True

    return filled_trace(
        columns,
        run,
        observed,
        consistent=plain_draft,
        fill=fill,
        seed=seed,
        schedule=drafted.astype(np.uint8),
        schedule_offset=round_offset,
        committed=committed.astype(np.uint8),
    )


def filled_trace(
    columns: dict[str, Any],
    run: NDArray[np.int64],
    observed: NDArray[np.bool_],
    *,
    consistent: bool,
    fill: Fill,
    seed: int,
    **rounds: Any,
) -> AcceptanceTrace:
    """The checked trace of partly filled runs, whose header says how much of them is.

    Args:
        columns: What `shared_columns` returns.
        run: Accepted length at every position [T], not yet capped.
        observed: Whether it was measured [T].
        consistent: Whether there is one acceptance bit per position.
        fill: Function that drew what was not measured.
        seed: Seed of the fill.
        rounds: Recorded rounds by the names of the trace's arrays, if any were.

    Raises:
        TraceError: What does not make a trace.
    """
    info = columns["info"]
    provenance = {
        **info.provenance,
        "seed": seed,
        "fill": getattr(fill, "__name__", type(fill).__name__),
        "filled_share": round(1.0 - float(observed.mean()), 6),
    }
    trace = AcceptanceTrace(
        **columns | {"info": replace(info, provenance=provenance, consistent=consistent)},
        accepted_length=np.minimum(run, MAX_RUN).astype(np.uint8),
        observed=observed.astype(np.uint8),
        **rounds,
    )
    trace.validate()
    return trace


def _shrunk_alpha(
    committed: NDArray[np.int64],
    drafted: NDArray[np.int64],
    round_offset: NDArray[np.int64],
    category: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Accepted / trials of each request [R], with PRIOR_TRIALS more at its category's rate."""
    accepted, trials = acceptance_counts(committed, drafted, round_offset)
    # Laplace's rule keeps the rate of a category with few trials away from 0 and 1.
    mean = (np.bincount(category, accepted) + 1) / (np.bincount(category, trials) + 2)
    shrunk: NDArray[np.float64] = (accepted + PRIOR_TRIALS * mean[category]) / (
        trials + PRIOR_TRIALS
    )
    return shrunk


def _next_zero(bits: NDArray[np.bool_], offset: NDArray[np.int64]) -> NDArray[np.int64]:
    """First position from here whose bit is 0, [T]; the request's end where there is none."""
    stop = np.where(bits, offset[-1], np.arange(offset[-1]))
    stop = np.minimum.accumulate(stop[::-1])[::-1]
    return np.minimum(stop, np.repeat(offset[1:], np.diff(offset)))


def run_lengths(bits: NDArray[np.bool_], offset: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ones in a row from here, [T]; a run ends at the latest with its output."""
    return _next_zero(bits, offset) - np.arange(offset[-1])
