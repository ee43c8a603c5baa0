"""What an acceptance trace consists of, and the checks that it is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from laps_env.sim.commit import ANY_DRAFT, replay_schedule
from laps_env.sim.refreshes import refresh_offset, tokens_when_told
from laps_env.utils.documents import convert, shown

#: Longest accepted length that a trace can hold; it stands for any longer one too.
MAX_RUN = 255


class TraceError(ValueError):
    """A trace is not what it should be; the message names the file, the place and the field."""


class TraceInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Origin of a trace, in plain JSON values."""

    drafter: str
    """Kind of drafter: "draft-model", "eagle", "ngram", "medusa", ..."""
    target_model: str
    """Name of the target model."""
    draft_model: str = ""
    """Name of the draft model; empty where there is none."""
    decoding: Mapping[str, Any] = {}
    """Decoding settings, for example {"temperature": 0.0, "max_new_tokens": 1024}."""
    provenance: Mapping[str, Any] = {}
    """Record of how the trace was made."""
    created: str = ""
    """ISO 8601 time of the recording; empty where it is not known."""
    consistent: bool = False
    """One acceptance bit per position (a plain draft model, greedy): accepted_length[t] = k > 0
    implies accepted_length[t + 1] = k - 1. Not so for n-gram and EAGLE-style drafters."""
    refresh_every: int = 0
    """Tokens from one refresh of a length prediction to the next; 0 where there are none."""


class Field(NamedTuple):
    """One array of a trace: its type, what it has one entry of, and whether it must be there."""

    dtype: str
    axis: str
    required: bool = False


ARRAYS = {
    "output_tokens": Field("int64", "request", required=True),
    "offset": Field("int64", "request + 1", required=True),
    "accepted_length": Field("uint8", "position", required=True),
    "prompt_tokens": Field("int64", "request", required=True),
    "category": Field("int64", "request", required=True),
    "max_draft": Field("uint8", "position"),
    "observed": Field("uint8", "position"),
    "confidence": Field("uint8", "position"),
    "acceptance": Field("float32", "position"),
    "group": Field("int64", "request"),
    "predicted_tokens": Field("float64", "request"),
    "refreshed_tokens": Field("float64", "refresh"),
    "schedule_offset": Field("int64", "request + 1"),
    "schedule": Field("uint8", "round"),
    "committed": Field("uint8", "round"),
    "round_ns": Field("int64", "round"),
}

Arrays = Mapping[str, NDArray[Any]]


def fail(source: str, request: int | None, name: str, expected: object, actual: object) -> NoReturn:
    """Raise the one kind of error that traces have."""
    place = "" if request is None else f"request {request}, "
    raise TraceError(f"{source}: {place}{name}: expected {expected}, got {actual}")


def check_trace(source: str, arrays: Arrays, categories: Sequence[str], info: TraceInfo) -> None:
    """Raise TraceError naming the source, the request and the field that is wrong."""
    try:
        convert(msgspec.structs.asdict(info), TraceInfo, "info")
    except ValueError as reason:
        raise TraceError(f"{source}: {reason}") from None
    names = list(categories)
    if not names or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        fail(source, None, "categories", "distinct names, at least one", shown(names))
    _check_types(source, arrays)
    _check_requests(source, arrays, len(names))
    _check_positions(source, arrays, info.consistent)
    _check_refreshes(source, arrays, info.refresh_every)
    if "schedule" in arrays:
        _check_rounds(source, arrays)
    elif arrays.keys() & {"schedule_offset", "committed", "round_ns"}:
        fail(source, None, "schedule", "the draft length of every recorded round", "none")


def replay_rounds(source: str, arrays: Arrays) -> NDArray[np.int64]:
    """Tokens committed by every recorded round when its schedule is replayed, int64 [S].

    Raises:
        TraceError: A schedule that is too short or too long for its output.
    """
    committed = np.empty(len(arrays["schedule"]), np.int64)
    rounds, reached = np.empty((2, len(arrays["output_tokens"])), np.int64)
    replay_schedule(
        arrays["offset"],
        arrays["accepted_length"],
        arrays.get("max_draft", ANY_DRAFT),
        arrays["schedule"],
        arrays["schedule_offset"],
        committed,
        rounds,
        reached,
    )
    missing = arrays["output_tokens"] - reached
    given = np.diff(arrays["schedule_offset"])
    for i in np.flatnonzero((missing > 0) | (given > rounds))[:1]:
        if missing[i]:
            expected, actual = "rounds to the end of the output", f"{missing[i]} tokens missing"
        else:
            expected, actual = f"{rounds[i]} rounds", f"{given[i]} rounds"
        fail(source, int(i), "schedule", expected, actual)
    return committed


def _check_types(source: str, arrays: Arrays) -> None:
    """Which arrays there are, and of what type."""
    for name in arrays:
        if name not in ARRAYS:
            fail(source, None, name, f"one of {', '.join(ARRAYS)}", "an unknown array")
    for name, (dtype, _, required) in ARRAYS.items():
        if name in arrays:
            array = arrays[name]
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
                found = f"{array.ndim}-d {array.dtype}" if isinstance(array, np.ndarray) else array
                fail(source, None, name, f"a 1-d {dtype} array", found)
        elif required:
            fail(source, None, name, f"a 1-d {dtype} array", "none")


def _check_sizes(source: str, arrays: Arrays, axis: str, size: int) -> None:
    for name, array in arrays.items():
        if ARRAYS[name].axis == axis and len(array) != size:
            fail(source, None, name, f"{size} entries, one per {axis}", len(array))


def _check_requests(source: str, arrays: Arrays, categories: int) -> None:
    tokens = arrays["output_tokens"]
    if not len(tokens):
        fail(source, None, "output_tokens", "at least one request", "none")
    _check_sizes(source, arrays, "request", len(tokens))
    _check_sizes(source, arrays, "request + 1", len(tokens) + 1)

    def check(name: str, expected: str, good: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> None:
        if name in arrays:
            _check_each(source, name, expected, arrays[name], good(arrays[name]))

    check("output_tokens", ">= 1", lambda values: values >= 1)
    check("prompt_tokens", ">= 0", lambda values: values >= 0)
    check("predicted_tokens", "> 0 and finite", lambda v: np.isfinite(v) & (v > 0))
    check("category", f"0 .. {categories - 1}", lambda v: (v >= 0) & (v < categories))


def _check_offset(source: str, name: str, offset: NDArray[np.int64]) -> NDArray[np.int64]:
    """Steps of the offsets, which start at 0 and grow."""
    if offset[0] != 0:
        fail(source, 0, name, "a start at 0", offset[0])
    _check_each(source, name, ">= 0", offset[1:], offset[1:] >= 0)  # so that no step wraps
    steps = np.diff(offset)
    _check_each(source, name, ">= 1 more than before", steps, steps >= 1)
    return steps


def _check_positions(source: str, arrays: Arrays, consistent: bool) -> None:
    tokens, offset, run = (arrays[key] for key in ("output_tokens", "offset", "accepted_length"))
    steps = _check_offset(source, "offset", offset)
    _check_each(source, "offset", lambda i: str(tokens[i]), steps, steps == tokens)
    _check_sizes(source, arrays, "position", offset[-1])
    if "observed" in arrays:
        observed = arrays["observed"]
        _check_each(source, "observed", "0 or 1", observed, observed <= 1, offset)
    if "acceptance" in arrays:
        chance = arrays["acceptance"]
        _check_each(source, "acceptance", "0 .. 1", chance, (chance >= 0) & (chance <= 1), offset)
    if consistent:
        before = np.zeros(len(run), np.int64)
        before[1:] = run[:-1]
        before[offset[:-1]] = 0  # the position before is another request's
        # A capped run may stand for any longer one, so it only bounds its successor from below.
        good = (before == 0) | (run == before - 1) | ((before == MAX_RUN) & (run == MAX_RUN))
        _check_each(
            source,
            "accepted_length",
            lambda t: f"{before[t] - 1} after {before[t]}",
            run,
            good,
            offset,
        )


def _check_refreshes(source: str, arrays: Arrays, every: int) -> None:
    """One after every so many tokens of a request that goes on, each above these."""
    if every < 0 or ("refreshed_tokens" in arrays) != (every > 0):
        fail(source, None, "info.refresh_every", ">= 1 beside refreshed_tokens, else 0", every)
    if every:
        offset = refresh_offset(arrays["output_tokens"], every)
        _check_sizes(source, arrays, "refresh", offset[-1])
        told, generated = arrays["refreshed_tokens"], tokens_when_told(offset, every)
        _check_each(
            source,
            "refreshed_tokens",
            lambda k: f"more than the {generated[k]} tokens generated by then, and finite",
            told,
            np.isfinite(told) & (told > generated),
            offset,
        )


def _check_rounds(source: str, arrays: Arrays) -> None:
    """The recorded rounds fill the outputs, and a replay of them commits what was recorded."""
    if "schedule_offset" not in arrays:
        fail(source, None, "schedule_offset", "an array beside schedule", "none")
    offset = arrays["schedule_offset"]
    _check_offset(source, "schedule_offset", offset)
    _check_sizes(source, arrays, "round", offset[-1])
    if "round_ns" in arrays:
        times = arrays["round_ns"]
        _check_each(source, "round_ns", ">= 0", times, times >= 0, offset)
    replayed = replay_rounds(source, arrays)
    if "committed" in arrays:
        _check_each(
            source,
            "committed",
            lambda k: f"{replayed[k]} by accepted_length and schedule",
            arrays["committed"],
            arrays["committed"] == replayed,
            offset,
        )


def _check_each(
    source: str,
    name: str,
    expected: str | Callable[[int], str],
    values: NDArray[Any],
    good: NDArray[np.bool_],
    offset: NDArray[np.int64] | None = None,
) -> None:
    """Raise for the first value that is not good: a request's, or with ``offset`` one of many."""
    if good.all():
        return
    k = int(np.argmin(good))
    request, place = k, name
    if offset is not None:
        request = int(np.searchsorted(offset, k, side="right")) - 1
        place = f"{name}[{k - offset[request]}]"
    fail(source, request, place, expected if isinstance(expected, str) else expected(k), values[k])
