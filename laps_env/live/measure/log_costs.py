"""Costs from a server's step log (`laps_env.traces.step_log`), for whoever cannot measure a grid.

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

import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from laps_env.live.measure.least_squares import Floats, fit_rates, relative_error
from laps_env.sim.calibration_file import write_calibration
from laps_env.sim.costs import CostModel, Work
from laps_env.traces.importers.step_lines import read_steps
from laps_env.traces.step_log import EngineStep, StepShare

#: One step of so many is kept from the fit.
HOLD_OUT_EVERY = 5

#: Share of the steps that is left out of the second fit.
OUTLIERS = 0.01

#: Fewer say nothing.
FEWEST_STEPS = 50

#: Fitted constants, in the order of `_counts`.
_NAMES = (
    "target_pass_ns",
    "target_token_ns",
    "target_kv_token_ns",
    "prefill_request_ns",
    "draft_step_ns",
    "draft_token_ns",
)


class LogFit(NamedTuple):
    """Costs that a log was fitted with.

    Attributes:
        cost: Cost model.
        error: Absolute relative error of the held-out steps (`relative_error`).
        total_error: Fitted over measured time of all held-out steps, minus 1.
        outliers: Number of steps left out of the second fit.
        scale: Factor by which that fit was too short for all steps.
        notes: Constants that the log does not tell, and why.
    """

    cost: CostModel
    error: dict[str, float]
    total_error: float
    outliers: int
    scale: float
    notes: list[str]


def fit_log(steps: Sequence[EngineStep]) -> LogFit:
    """Fit the costs of the steps; those that served nobody or took no time are not looked at.

    Raises:
        ValueError: Fewer than 50 steps, none that only decodes, or a fit in which time stands.
    """
    worked = [step for step in steps if step.requests and step.duration_s > 0]
    if len(worked) < FEWEST_STEPS:
        raise ValueError(f"expected at least {FEWEST_STEPS} steps with requests, got {len(worked)}")
    work = [work_of(step) for step in worked]
    times = np.array([step.duration_s * 1e9 for step in worked])
    known, notes = _told_apart(work)
    counts = _counts(work) * known
    held_out = np.arange(len(times)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
    seen, measured = counts[~held_out], times[~held_out]
    first = seen @ fit_rates(seen, measured)
    outliers = round(OUTLIERS * len(measured))
    kept = np.argsort(measured / first)[: len(measured) - outliers]
    rates = fit_rates(seen[kept], measured[kept], first[kept])
    scale = float(measured.sum() / (seen @ rates).sum())
    rates *= scale
    expected = counts[held_out] @ rates
    return LogFit(
        cost=_cost_model(rates),
        error=relative_error(times[held_out], expected),
        total_error=float(expected.sum() / times[held_out].sum() - 1),
        outliers=outliers,
        scale=scale,
        notes=notes,
    )


def work_of(step: EngineStep) -> Work:
    """The work of a step as the replay counts it."""
    prompts = [share for share in step.requests if _computes_a_prompt(share)]
    prefill = sum(share.scheduled for share in prompts)
    return Work(
        verify=sum(share.scheduled for share in step.requests) - prefill,
        prefill=prefill,
        kv=sum(share.cached for share in step.requests) + prefill,
        steps=max(share.drafted for share in step.requests),
        drafted=sum(share.drafted for share in step.requests),
        draft_kv=0,
        prefills=len(prompts),
        swaps=0,
        swapped=0,
    )


def _computes_a_prompt(share: StepShare) -> bool:
    """Whether a request computes its prompt, or again what a pre-emption has dropped."""
    return share.committed == 0 or share.scheduled != 1 + share.drafted


def _counts(work: Sequence[Work]) -> Floats:
    """Counts of work [steps, constants]."""
    rows = [(1, w.verify + w.prefill, w.kv, w.prefills, w.steps, w.drafted) for w in work]
    return np.array(rows, np.float64)


def _told_apart(work: Sequence[Work]) -> tuple[Floats, list[str]]:
    """Which constants the steps tell [constants], as 0 or 1, and in words which they do not."""
    drafts = {w.steps for w in work if not w.prefills}
    if not drafts:
        raise ValueError("expected steps that compute no prompt, got none")
    known, notes = np.ones(len(_NAMES)), []
    if len(drafts) == 1:
        known[-2:] = 0
        notes.append(
            f"draft_step_ns and draft_token_ns are 0: every step without a prompt drafted "
            f"{drafts.pop()} tokens, so what drafting takes is in target_pass_ns and "
            "target_token_ns"
        )
    if not any(w.prefills for w in work):
        known[_NAMES.index("prefill_request_ns")] = 0
        notes.append("prefill_request_ns is 0: no step computed a prompt")
    return known, notes


def _cost_model(rates: Floats) -> CostModel:
    return CostModel(
        overhead_ns=0.0,
        swap_token_ns=0.0,
        **dict(zip(_NAMES, rates.tolist(), strict=True)),
    )


def calibrate_from_log(log: Path, out: Path) -> None:
    """Fit, write, print.

    Raises:
        ValueError: A file that is no step log, or steps that do not tell the costs.
        OSError: The log cannot be read, or the calibration cannot be written.
    """
    header, steps = read_steps(log)
    try:
        fit = fit_log(steps)
    except ValueError as reason:
        raise ValueError(f"{log}: {reason}") from None
    document: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": {"name": header.device},
        "software": {
            "engine": header.engine,
            "python": platform.python_version(),
            "laps_env": version("laps-env"),
        },
        "models": {
            "target": header.target,
            "draft": header.draft or header.drafter or "no drafter",
        },
        "dtype": header.dtype,
        "cost": fit.cost,
        "errors": {"round": fit.error},
        "log": {
            "file": log.name,
            "steps": len(steps),
            "outliers": fit.outliers,
            "scale": fit.scale,
            "total_error": fit.total_error,
            "notes": fit.notes,
        },
    }
    write_calibration(out, document)
    for name, value in asdict(fit.cost).items():
        if name != "source":
            print(f"{name:20} {value:16,.1f}")
    for note in fit.notes:
        print(note)
    print(
        f"\n{len(steps)} steps; the {fit.outliers} slowest against a first fit left out of the "
        f"second, and this scaled by {fit.scale:.3f} to take as long as all that were fitted"
    )
    print(
        f"held-out steps: error mean {fit.error['mean']:.1%}, p90 {fit.error['p90']:.1%}; "
        f"their total {fit.total_error:+.1%}"
    )
    print(f"\nwritten: {out}")
