"""What an acceptance trace consists of, and the checks that it is one."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from laps_env.traces.file import TraceError

if TYPE_CHECKING:
    from laps_env.traces import AcceptanceTrace

MAX_RUN = 255

# name -> (type, what it has one entry of, required)
ARRAYS: dict[str, tuple[str, str, bool]] = {
    "output_tokens": ("int64", "request", True),
    "offset": ("int64", "request + 1", True),
    "accepted_length": ("uint8", "position", True),
    "prompt_tokens": ("int64", "request", True),
    "category": ("int64", "request", True),
    "max_draft": ("uint8", "position", False),
    "observed": ("uint8", "position", False),
    "group": ("int64", "request", False),
    "predicted_tokens": ("float64", "request", False),
    "schedule_offset": ("int64", "request + 1", False),
    "schedule": ("uint8", "round", False),
    "committed": ("uint8", "round", False),
    "round_ns": ("int64", "round", False),
}


@dataclass(frozen=True)
class TraceInfo:
    """Where a trace comes from; all of it plain JSON values."""

    drafter: str
    """Kind of drafter: "draft-model", "eagle", "ngram", "medusa", ..."""
    target_model: str
    draft_model: str = ""
    decoding: Mapping[str, Any] = field(default_factory=dict)
    """Decoding settings, for example {"temperature": 0.0, "max_new_tokens": 1024}."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    """ISO 8601 time of the recording; empty where it is not known."""
    consistent: bool = False
    """One acceptance bit per position (a plain draft model, greedy): accepted_length[t] = k > 0
    implies accepted_length[t + 1] = k - 1. Not so for n-gram and EAGLE-style drafters."""


def fail(source: str, request: int | None, name: str, expected: object, actual: object) -> NoReturn:
    """Raise the one kind of error traces have."""
    place = "" if request is None else f"request {request}, "
    raise TraceError(f"{source}: {place}{name}: expected {expected}, got {actual}")


def read_info(path: Path, raw: Any) -> TraceInfo:
    """The header's `info` object, every member present and of its type."""
    if not isinstance(raw, dict):
        fail(str(path), None, "info", "an object", repr(raw))
    names = {item.name for item in fields(TraceInfo)}
    if set(raw) != names:
        fail(str(path), None, "info", f"the members {sorted(names)}", sorted(raw))
    return TraceInfo(**raw)


def check_trace(trace: "AcceptanceTrace") -> None:
    """Raise TraceError naming the file, the request and the field that is wrong."""
    _check_info(trace)
    _check_lengths(trace)
    _check_positions(trace)
    if trace.schedule is not None:
        _check_rounds(trace)
    elif any(a is not None for a in (trace.schedule_offset, trace.committed, trace.round_ns)):
        fail(trace.source, None, "schedule", "the draft length of every recorded round", "none")


def _check_info(trace: "AcceptanceTrace") -> None:
    for item in fields(TraceInfo):
        value = getattr(trace.info, item.name)
        kind = {"decoding": Mapping, "provenance": Mapping, "consistent": bool}.get(item.name, str)
        if not isinstance(value, kind):
            fail(trace.source, None, f"info.{item.name}", kind.__name__, repr(value))
    names = trace.categories
    if not names or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        fail(trace.source, None, "categories", "distinct names, at least one", names)


def _check_lengths(trace: "AcceptanceTrace") -> None:
    """Types and sizes of all arrays; the first wrong request of each."""
    source = trace.source
    for name, (dtype, axis, required) in ARRAYS.items():
        array = getattr(trace, name)
        if array is None and not required:
            continue
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
            kind = f"{array.ndim}-d {array.dtype}" if isinstance(array, np.ndarray) else array
            fail(source, None, name, f"a 1-d {dtype} array", kind)
        if axis.startswith("request"):
            size = len(trace.output_tokens) + (axis == "request + 1")
            if len(array) != size:
                fail(source, None, name, f"{size} entries", len(array))
    if not len(trace.output_tokens):
        fail(source, None, "output_tokens", "at least one request", "none")
    _each(source, "output_tokens", ">= 1", trace.output_tokens, trace.output_tokens >= 1)
    _each(source, "prompt_tokens", ">= 0", trace.prompt_tokens, trace.prompt_tokens >= 0)
    if (predicted := trace.predicted_tokens) is not None:
        _each(source, "predicted_tokens", "> 0 and finite", predicted, in_range(predicted))
    good = (trace.category >= 0) & (trace.category < len(trace.categories))
    _each(source, "category", f"0 .. {len(trace.categories) - 1}", trace.category, good)
    if trace.offset[0] != 0:
        fail(source, 0, "offset", "a start at 0", trace.offset[0])
    _each(source, "offset", ">= 0", trace.offset[1:], trace.offset[1:] >= 0)
    steps = np.diff(trace.offset)
    _each(source, "offset", trace.output_tokens, steps, steps == trace.output_tokens)
    for name, (_, axis, _) in ARRAYS.items():
        array = getattr(trace, name)
        if axis == "position" and array is not None and len(array) != trace.offset[-1]:
            fail(source, None, name, f"{trace.offset[-1]} positions", len(array))


def _check_positions(trace: "AcceptanceTrace") -> None:
    if trace.observed is not None and (wrong := trace.observed > 1).any():
        at = int(np.argmax(wrong))
        _fail_at(trace, "observed", at, "0 or 1", trace.observed[at])
    if trace.info.consistent and len(trace.accepted_length) > 1:
        run = trace.accepted_length.astype(np.int16)
        here, after = run[:-1], run[1:]
        # A capped run may stand for any longer one, so it only bounds its successor from below.
        good = (here == 0) | (after == here - 1) | ((here == MAX_RUN) & (after == MAX_RUN))
        good[trace.offset[1:-1] - 1] = True  # the successor belongs to the next request
        if not good.all():
            at = int(np.argmin(good))
            _fail_at(
                trace, "accepted_length", at + 1, f"{here[at] - 1} after {here[at]}", after[at]
            )


def _check_rounds(trace: "AcceptanceTrace") -> None:
    """The recorded rounds fill the outputs, and a replay of them commits what was recorded."""
    source, offset = trace.source, trace.schedule_offset
    assert trace.schedule is not None  # the caller asked
    if offset is None:
        fail(source, None, "schedule_offset", "an array beside schedule", "none")
    if offset[0] != 0:
        fail(source, 0, "schedule_offset", "a start at 0", offset[0])
    _each(source, "schedule_offset", ">= 0", offset[1:], offset[1:] >= 0)
    rounds = np.diff(offset)
    _each(source, "schedule_offset", ">= 1 rounds", rounds, rounds >= 1)
    for name in ("schedule", "committed", "round_ns"):
        array = getattr(trace, name)
        if array is not None and len(array) != offset[-1]:
            fail(source, None, name, f"{offset[-1]} rounds", len(array))
    if trace.round_ns is not None and (wrong := trace.round_ns < 0).any():
        k = int(np.argmax(wrong))
        i = int(np.searchsorted(offset, k, side="right")) - 1
        fail(source, i, f"round_ns[{k - offset[i]}]", ">= 0", trace.round_ns[k])
    replayed = trace.replay()
    if trace.committed is not None and (wrong := replayed != trace.committed).any():
        k = int(np.argmax(wrong))
        i = int(np.searchsorted(offset, k, side="right")) - 1
        what = f"{replayed[k]} in round {k - offset[i]} by accepted_length and schedule"
        fail(source, i, "committed", what, trace.committed[k])


def in_range(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of them are finite and > 0."""
    return np.isfinite(values) & (values > 0)


def _each(
    source: str, name: str, expected: object, values: NDArray[Any], good: NDArray[np.bool_]
) -> None:
    if not good.all():
        i = int(np.argmin(good))
        want = expected[i] if isinstance(expected, np.ndarray) else expected
        fail(source, i, name, want, values[i])


def _fail_at(
    trace: "AcceptanceTrace", name: str, at: int, expected: object, actual: object
) -> NoReturn:
    i = int(np.searchsorted(trace.offset, at, side="right")) - 1
    fail(trace.source, i, f"{name}[{at - trace.offset[i]}]", expected, actual)
