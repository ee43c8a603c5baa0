"""Traces of several files as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from laps_env.traces.schema import ARRAYS, MAX_RUN, TraceError
from laps_env.traces.trace import AcceptanceTrace


def joined(traces: Sequence[AcceptanceTrace]) -> AcceptanceTrace:
    """The requests of all traces, one trace after the other; categories of one name are one.

    What not every trace has recorded is left out; groups of different traces stay different.

    Args:
        traces: Traces of one system.

    Raises:
        TraceError: No trace, or recordings of different systems, which no one server has.
    """
    if not traces:
        raise TraceError("traces: expected at least one, got none")
    first = traces[0]
    for trace in traces[1:]:
        for name in ("drafter", "target_model", "draft_model", "decoding"):
            expected, found = getattr(first.info, name), getattr(trace.info, name)
            if found != expected:
                raise TraceError(
                    f"{trace.source}: info.{name}: expected {expected!r} of {first.source}, "
                    f"got {found!r}"
                )
    if len(traces) == 1:
        return first
    categories = tuple(dict.fromkeys(name for trace in traces for name in trace.categories))
    parts = [_columns(trace, categories) for trace in traces]
    names = [name for name in ARRAYS if all(name in part for part in parts)]
    if len({trace.info.refresh_every for trace in traces}) > 1:
        names = [name for name in names if ARRAYS[name].axis != "refresh"]
    if "schedule" not in names:
        names = [name for name in names if ARRAYS[name].axis != "round" and "schedule" not in name]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
    for name in names:
        if ARRAYS[name].axis == "request + 1":  # steps until here
            columns[name] = np.concatenate([[0], np.cumsum(columns[name])])
    before = np.cumsum([0, *(part["group"].max() + 1 for part in parts)])
    columns["group"] += np.repeat(before[:-1], [trace.num_requests for trace in traces])
    every = first.info.refresh_every if "refreshed_tokens" in columns else 0
    consistent = all(trace.info.consistent for trace in traces)
    info = replace(first.info, consistent=consistent, refresh_every=every)
    source = ", ".join(trace.source for trace in traces)
    whole = AcceptanceTrace(**columns, categories=categories, info=info, source=source)
    whole.validate()
    return whole


def _columns(trace: AcceptanceTrace, categories: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The arrays of a trace as those of a longer one: steps for offsets, categories of all."""
    positions = len(trace.accepted_length)
    found: dict[str, NDArray[Any]] = {
        "max_draft": np.full(positions, MAX_RUN, np.uint8),
        "observed": np.ones(positions, np.uint8),
        "group": np.arange(trace.num_requests),
    }
    for name, field in ARRAYS.items():
        array = getattr(trace, name)
        if array is not None:
            found[name] = np.diff(array) if field.axis == "request + 1" else array
    place = np.array([categories.index(name) for name in trace.categories], np.int64)
    found["category"] = place[trace.category]
    found["group"] = np.unique(found["group"], return_inverse=True)[1].astype(np.int64)
    return found
