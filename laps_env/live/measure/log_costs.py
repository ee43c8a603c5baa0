"""Costs from a server's step log or table of steps, for whoever cannot measure a grid.

Non-negative least squares on relative errors of the steps' durations, four steps of five; every
fifth measures the error. A step's work is counted as the replay counts it, so a prompt is read
where it is computed. Only whole steps were timed, so overhead and pass are one constant, and a
draft's own cache has none.

A shared machine has steps that take ten times as long. The slowest hundredth against a first fit is
left out of a second, whose errors are relative to the first: relative to the measured times it
would follow the short ones. It is then scaled so that the steps, with those left out, take as long
in sum as they did: an hour of steps stays an hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from laps_env.live.measure.fit_report import fit_document, print_errors, print_fit
from laps_env.live.measure.identification import Counted, told_apart
from laps_env.live.measure.intervals import blocks_of, rate_intervals
from laps_env.live.measure.least_squares import Floats, fit_rates, relative_error
from laps_env.live.measure.logged_steps import TimedSteps, read_timed_steps, timed
from laps_env.sim.calibration_file import write_calibration
from laps_env.sim.costs import CostModel, Work
from laps_env.traces.step_log import EngineStep

#: One step of so many is kept from the fit.
HOLD_OUT_EVERY = 5

#: Share of the steps that is left out of the second fit.
OUTLIERS = 0.01

#: Fewer say nothing.
FEWEST_STEPS = 50

#: Fewer held-out steps of a kind have no error of their own.
FEWEST_OF_A_TERM = 5

_DECODING = " without a prompt"

#: Fitted constants, in the order of `_counts`.
_COUNTED = (
    Counted("target_pass_ns", "passes"),
    Counted("target_token_ns", "tokens of the target"),
    Counted("target_kv_token_ns", "key-value tokens"),
    Counted("prefill_request_ns", "prompts"),
    Counted("draft_step_ns", "draft steps", _DECODING),
    Counted("draft_token_ns", "drafted tokens", _DECODING),
)


class LogFit(NamedTuple):
    """Costs that a log was fitted with.

    Attributes:
        cost: Cost model.
        intervals: Bounds of each constant that was fitted, nanoseconds (`rate_intervals`).
        errors: Absolute relative error of the held-out steps (`relative_error`) by term: "round",
            all of them; "prefill" and "decode", those with a prompt and without; where there are
            several, those without a prompt by their batch and draft steps.
        total_error: Fitted over measured time of all held-out steps, minus 1.
        outliers: Number of steps left out of the second fit.
        scale: Factor by which that fit was too short for all steps.
        notes: Constants that the log does not tell, and why.
    """

    cost: CostModel
    intervals: dict[str, tuple[float, float]]
    errors: dict[str, dict[str, float]]
    total_error: float
    outliers: int
    scale: float
    notes: list[str]


def fit_log(steps: Sequence[EngineStep]) -> LogFit:
    """Fit the costs of a log's steps; those that served nobody or took no time are not looked at.

    Raises:
        ValueError: What `fit_steps` raises.
    """
    return fit_steps(timed(steps))


def fit_steps(steps: TimedSteps) -> LogFit:
    """Fit the costs of steps.

    Raises:
        ValueError: Fewer than 50 steps, none that only decodes, or a fit in which time stands.
    """
    if len(steps.times) < FEWEST_STEPS:
        raise ValueError(
            f"expected at least {FEWEST_STEPS} steps with requests, got {len(steps.times)}"
        )
    decoding = np.array([w.prefill == w.prefills == 0 for w in steps.work])
    if not decoding.any():
        raise ValueError("expected steps that compute no prompt, got none")
    counts = _counts(steps.work)
    places = {"": np.ones(len(decoding), np.bool_), _DECODING: decoding}
    told, notes = told_apart(counts, steps.times, _COUNTED, places)
    held_out = np.arange(len(steps.times)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
    seen, measured = (counts * told)[~held_out], steps.times[~held_out]
    rates, outliers, scale = _fit(seen, measured)
    intervals = rate_intervals(
        lambda rows: _fit(seen[rows], measured[rows])[0], blocks_of(len(measured))
    )
    fitted = counts @ rates
    return LogFit(
        cost=_cost_model(rates),
        intervals={
            c.constant: (low, high)
            for c, is_told, (low, high) in zip(_COUNTED, told, intervals.tolist(), strict=True)
            if is_told
        },
        errors=_errors(steps, decoding, held_out, fitted),
        total_error=float(fitted[held_out].sum() / steps.times[held_out].sum() - 1),
        outliers=outliers,
        scale=scale,
        notes=notes,
    )


def _fit(counts: Floats, times: Floats) -> tuple[Floats, int, float]:
    """Rates by the two fits, the number of steps left out, and the scale (see the module)."""
    first = counts @ fit_rates(counts, times)
    outliers = round(OUTLIERS * len(times))
    kept = np.argsort(times / first)[: len(times) - outliers]
    rates = fit_rates(counts[kept], times[kept], first[kept])
    scale = float(times.sum() / (counts @ rates).sum())
    return rates * scale, outliers, scale


def _counts(work: Sequence[Work]) -> Floats:
    """Counts of work [steps, constants]."""
    rows = [(1, w.verify + w.prefill, w.kv, w.prefills, w.steps, w.drafted) for w in work]
    return np.array(rows, np.float64)


def _errors(
    steps: TimedSteps, decoding: NDArray[np.bool_], held_out: NDArray[np.bool_], fitted: Floats
) -> dict[str, dict[str, float]]:
    """Error of the held-out steps by term (`LogFit.errors`)."""
    terms = {"round": np.ones(len(decoding), np.bool_), "prefill": ~decoding, "decode": decoding}
    for name, sizes in (("batch", steps.batch), ("draft steps", [w.steps for w in steps.work])):
        classes = np.array([_size_class(size) for size in sizes])
        several = np.unique(classes[decoding]).tolist()
        if len(several) > 1:
            terms |= {f"{name} {_range(size)}": decoding & (classes == size) for size in several}
    chosen = {name: term & held_out for name, term in terms.items()}
    return {
        name: relative_error(steps.times[own], fitted[own])
        for name, own in chosen.items()
        if name == "round" or own.sum() >= FEWEST_OF_A_TERM
    }


def _size_class(size: int) -> int:
    """The least power of two that a size does not exceed, or 0."""
    return 1 << (size - 1).bit_length() if size else 0


def _range(size_class: int) -> str:
    """Sizes of a class: 0, 1, 2, 3-4, 5-8, ..."""
    return f"{size_class // 2 + 1}-{size_class}" if size_class > 2 else str(size_class)


def _cost_model(rates: Floats) -> CostModel:
    return CostModel(
        overhead_ns=0.0,
        swap_token_ns=0.0,
        **{c.constant: rate for c, rate in zip(_COUNTED, rates.tolist(), strict=True)},
    )


def calibrate_from_log(log: Path, out: Path) -> None:
    """Fit, write, print.

    Raises:
        ValueError: A file that is neither a step log nor a table of steps, or steps that do not
            tell the costs.
        OSError: The log cannot be read, or the calibration cannot be written.
    """
    header, steps = read_timed_steps(log)
    try:
        fit = fit_steps(steps)
    except ValueError as reason:
        raise ValueError(f"{log}: {reason}") from None
    document = fit_document(log, header, fit.cost, fit.errors)
    document["log"] = {
        "file": log.name,
        "steps": len(steps.times),
        "outliers": fit.outliers,
        "scale": fit.scale,
        "total_error": fit.total_error,
        "notes": fit.notes,
        "intervals": fit.intervals,
    }
    write_calibration(out, document)
    print_fit(fit.cost, fit.intervals, fit.notes)
    print(
        f"\n{len(steps.times)} steps; the {fit.outliers} slowest against a first fit left out of "
        f"the second, and this scaled by {fit.scale:.3f} to take as long as all that were fitted"
    )
    print_errors("steps", fit.errors, fit.total_error)
    print(f"\nwritten: {out}")
