"""Steps of a server with their work and their times, from a step log or a table.

A table is CSV, plain or gzip, a step a line: ``batch`` (requests in it), ``tokens`` (given to the
target), ``context`` (key-value tokens that it read) and ``seconds``; where the engine says them
also ``drafted`` (draft tokens among these), ``draft_steps`` (without it as many as the drafted per
request, rounded up), ``prefill_tokens`` (tokens of prompts among these) and ``prefills`` (requests
that they are of).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from laps_env.live.measure.least_squares import Floats
from laps_env.live.measure.rows import LEAST_SECONDS, Columns, Count, Seconds, read_rows
from laps_env.sim.costs import Work
from laps_env.traces.importers.step_lines import is_step_log, read_steps
from laps_env.traces.step_log import EngineStep, RunHeader, StepShare

_NEEDED: Columns = {"batch": Count(1), "tokens": Count(1), "context": Count(), "seconds": Seconds()}
_OPTIONAL: Columns = {
    name: Count() for name in ("drafted", "draft_steps", "prefill_tokens", "prefills")
}


class TimedSteps(NamedTuple):
    """Steps that served somebody and took time.

    Attributes:
        work: Work of each as the replay counts it.
        batch: Requests in each.
        times: Duration of each, nanoseconds.
    """

    work: list[Work]
    batch: list[int]
    times: Floats


def read_timed_steps(path: Path) -> tuple[RunHeader | None, TimedSteps]:
    """The steps in a step log, with its header, or in a table, which has none.

    Raises:
        TraceError: A file or line that is of neither kind; the message names the file, the line and
            the member or column.
        OSError: The file cannot be read.
    """
    if is_step_log(path):
        header, steps = read_steps(path)
        return header, timed(steps)
    rows = read_rows(path, _NEEDED, _OPTIONAL, _row)
    work, batch, times = zip(*rows, strict=True) if rows else ((), (), ())
    return None, TimedSteps(list(work), list(batch), np.array(times))


def _row(row: dict[str, Any]) -> tuple[Work, int, float]:
    """Work, batch and nanoseconds of a line."""
    batch, tokens = row["batch"], row["tokens"]
    drafted, prefill = row.get("drafted", 0), row.get("prefill_tokens", 0)
    if tokens < max(batch, drafted + prefill):
        expected = f"{batch} or more for so many requests, with all that are drafted or of prompts"
        raise ValueError(f"tokens: expected {expected}, got {tokens}")
    work = Work(
        verify=tokens - prefill,
        prefill=prefill,
        kv=row["context"],
        steps=row.get("draft_steps", -(-drafted // batch)),
        drafted=drafted,
        draft_kv=0,
        prefills=row.get("prefills", 0),
        swaps=0,
        swapped=0,
    )
    return work, batch, row["seconds"] * 1e9


def timed(steps: Sequence[EngineStep]) -> TimedSteps:
    """The steps of a log."""
    worked = [step for step in steps if step.requests and step.duration_s >= LEAST_SECONDS]
    return TimedSteps(
        work=[work_of(step) for step in worked],
        batch=[len(step.requests) for step in worked],
        times=np.array([step.duration_s * 1e9 for step in worked]),
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
