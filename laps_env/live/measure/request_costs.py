"""Costs from the times of requests, for whoever has no log of steps.

Two constants at most: a pass of the target, and a token that it is given. The time to the first
token is a pass over the prompt; every later round is a pass over a token. In both are a token of
each other request that is served at once and, for there is a new one for each that leaves, in the
mean a part of their prompts. What a round takes beyond its tokens, drafts and key-value cache among
it, is in the pass: the constants say what was seen at that concurrency, and not what another batch
would take.

Non-negative least squares on relative errors, those of parts that took longer than a first fit says
relative to what they took: some wait for others' prompts, a whole wave of them at the start of a
benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from laps_env.live.measure.fit_report import fit_document, print_errors, print_fit
from laps_env.live.measure.identification import Counted, told_apart
from laps_env.live.measure.intervals import rate_intervals
from laps_env.live.measure.least_squares import Floats, fit_rates, relative_error
from laps_env.live.measure.request_times import RequestTimes, read_request_times
from laps_env.sim.calibration_file import write_calibration
from laps_env.sim.costs import CONSTANT_NAMES, CostModel

#: One request of so many is kept from the fit.
HOLD_OUT_EVERY = 5

#: Fewer say nothing.
FEWEST_REQUESTS = 20

_COUNTED = (
    Counted("target_pass_ns", "passes"),
    Counted("target_token_ns", "tokens of the target"),
)


class RequestFit(NamedTuple):
    """Costs that times of requests were fitted with.

    Attributes:
        cost: Cost model.
        intervals: Bounds of each constant that was fitted, nanoseconds (`rate_intervals`).
        errors: Absolute relative error of the held-out requests (`relative_error`) by term:
            "round", all rounds behind the first token; "prefill", to the first token; "request",
            all of it.
        total_error: Fitted over measured time of all held-out requests, minus 1.
        notes: What the constants are of, and what the times do not tell.
    """

    cost: CostModel
    intervals: dict[str, tuple[float, float]]
    errors: dict[str, dict[str, float]]
    total_error: float
    notes: list[str]


class _Parts(NamedTuple):
    """Parts of requests that were timed: to the first token, and from there on; or all at once."""

    counts: Floats  # [parts, constants]
    times: Floats  # [parts] nanoseconds
    request: NDArray[np.int64]  # [parts]
    first: NDArray[np.bool_]  # [parts] up to the first token, and no further


def fit_requests(requests: Sequence[RequestTimes]) -> RequestFit:
    """Fit the costs of requests.

    Raises:
        ValueError: Fewer than 20 requests, or a fit in which a pass takes no time.
    """
    if len(requests) < FEWEST_REQUESTS:
        raise ValueError(f"expected at least {FEWEST_REQUESTS} requests, got {len(requests)}")
    parts = _parts(requests)
    everywhere = {"": np.ones(len(parts.times), np.bool_)}
    told, notes = told_apart(parts.counts, parts.times, _COUNTED, everywhere)
    counts = parts.counts * told
    held_out = parts.request % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
    groups = [np.flatnonzero(parts.request == number) for number in set(parts.request[~held_out])]

    def fit(rows: NDArray[np.intp]) -> Floats:
        first = counts[rows] @ fit_rates(counts[rows], parts.times[rows])
        return fit_rates(counts[rows], parts.times[rows], np.maximum(first, parts.times[rows]))

    rates = fit(np.flatnonzero(~held_out))
    if rates[0] < 1:
        raise ValueError(
            "target_pass_ns: expected some time for a pass, got a fit of 0: the requests are too "
            "few, or waited before they were served"
        )
    intervals = rate_intervals(fit, groups)
    errors, total_error = _errors(parts, held_out, counts @ rates)
    values = dict(zip((c.constant for c in _COUNTED), rates.tolist(), strict=True))
    return RequestFit(
        cost=CostModel(**{name: values.get(name, 0.0) for name in CONSTANT_NAMES}),
        intervals={
            c.constant: (low, high)
            for c, is_told, (low, high) in zip(_COUNTED, told, intervals.tolist(), strict=True)
            if is_told
        },
        errors=errors,
        total_error=total_error,
        notes=[*_notes(requests), *notes],
    )


def _parts(requests: Sequence[RequestTimes]) -> _Parts:
    """Counts of work and times (see the module)."""
    prompt_per_round = sum(r.prompt for r in requests) / sum(r.rounds for r in requests)
    rows: list[tuple[float, float, float, int, bool]] = []
    for number, r in enumerate(requests):
        others, later = ((r.concurrency or 1) - 1) * (1 + prompt_per_round), r.rounds - 1
        prefill, decode = r.prompt + others, later * (1 + others)
        if r.ttft_s is None:
            rows.append((r.rounds, prefill + decode, r.seconds, number, False))
            continue
        rows.append((1, prefill, r.ttft_s, number, True))
        if later:
            rows.append((later, decode, r.seconds - r.ttft_s, number, False))
    passes, tokens, seconds, owner, first = zip(*rows, strict=True)
    return _Parts(
        np.array([passes, tokens], np.float64).T,
        np.array(seconds) * 1e9,
        np.array(owner),
        np.array(first),
    )


def _errors(
    parts: _Parts, held_out: NDArray[np.bool_], fitted: Floats
) -> tuple[dict[str, dict[str, float]], float]:
    """Errors of the held-out requests by term, and that of their sum."""
    terms = {"round": held_out & ~parts.first, "prefill": held_out & parts.first}
    errors = {
        name: relative_error(parts.times[own], fitted[own])
        for name, own in terms.items()
        if own.any()
    }
    _, owner = np.unique(parts.request[held_out], return_inverse=True)
    measured, expected = np.zeros((2, owner[-1] + 1))
    np.add.at(measured, owner, parts.times[held_out])
    np.add.at(expected, owner, fitted[held_out])
    errors["request"] = relative_error(measured, expected)
    return {"round": errors["request"], **errors}, float(expected.sum() / measured.sum() - 1)


def _notes(requests: Sequence[RequestTimes]) -> list[str]:
    """What the constants are of."""
    known = [r.concurrency for r in requests if r.concurrency is not None]
    sizes = f"{min(known):g}" if known else "1 (assumed: the requests do not say)"
    if known and max(known) > min(known):
        sizes += f" to {max(known):g}"
    notes = [
        f"these are costs at a concurrency of {sizes}; they say nothing about other batch sizes",
        "target_pass_ns has all that a round takes beyond its tokens: host, drafts, cached tokens",
    ]
    if known and len(known) < len(requests):
        notes.append(f"{len(requests) - len(known)} requests do not say theirs: 1 is assumed")
    if any(r.ttft_s is None for r in requests):
        notes.append("some requests have no time to the first token: theirs is not told apart")
    return notes


def calibrate_from_requests(source: Path, out: Path) -> None:
    """Fit, write, print.

    Raises:
        ValueError: A file that holds no times of requests, or too few.
        OSError: The file cannot be read, or the calibration cannot be written.
    """
    requests = read_request_times(source)
    try:
        fit = fit_requests(requests)
    except ValueError as reason:
        raise ValueError(f"{source}: {reason}") from None
    document = fit_document(source, None, fit.cost, fit.errors)
    document["requests"] = {
        "file": source.name,
        "requests": len(requests),
        "total_error": fit.total_error,
        "notes": fit.notes,
        "intervals": fit.intervals,
    }
    write_calibration(out, document)
    print_fit(fit.cost, fit.intervals, fit.notes)
    print(f"\n{len(requests)} requests")
    print_errors("requests", fit.errors, fit.total_error)
    print(f"\nwritten: {out}")
