"""Arrivals in JSON: Mooncake's and Bailian's lines, AIPerf's records, vLLM's benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from laps_env.traces.importers.aiperf import Profiled
from laps_env.traces.importers.arrival_format import NAMELESS, Format, Request, check_no_unit
from laps_env.traces.importers.arrival_times import Unit, nanoseconds, tokens
from laps_env.traces.importers.records import (
    NoTokensError,
    is_array,
    numbered_records,
    parse_entries,
    read_lines,
)
from laps_env.traces.importers.unpacked import MAX_LINE_BYTES, first_line, read_array, read_whole
from laps_env.traces.schema import TraceError
from laps_env.utils.documents import convert, shown

#: Bytes of the largest benchmark result, which is one JSON object and has to fit into memory.
MAX_RESULT_BYTES = 2**30


def json_format(path: Path, unit: Unit | None) -> Format:
    """Format of a JSON file, by the members of its first record.

    Raises:
        TraceError: None of the formats, or a benchmark's result that is malformed.
        ValueError: A unit for times that have their own.
        OSError: The file cannot be read.
    """
    if _is_result(path):
        return _result_format(path, unit)
    record = _first_record(path)
    if "metadata" in record:
        return _aiperf_format(path, unit)
    if record and not {"timestamp", "input_length", "output_length"} & record.keys():
        expected = "arrivals (timestamp, input_length and output_length; metadata and metrics)"
        raise TraceError(f"{path}: expected {expected}, got the members {shown(list(record))}")
    return _timed_format(path, unit)


def _place_of(path: Path) -> str:
    return "entry" if is_array(path) else "line"


# -- Mooncake and its kin -------------------------------------------------------------------------

_Time = Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)]


class _Timed(msgspec.Struct):
    input_length: Any
    output_length: Any
    timestamp: _Time | None = None
    delay: _Time | None = None
    session_id: str | int | None = None
    chat_id: str | int | None = None


def _timed_format(path: Path, unit: Unit | None) -> Format:
    reader = _TimedReader(unit)
    return Format(
        "Bailian's JSON" if "chat_id" in _first_record(path) else "Mooncake's JSON",
        "timestamp",
        partial(numbered_records, path, reader.request),
        _place_of(path),
        identity="chat_id",
        ordered=lambda: not reader.placed,
        assumed=reader.assumed,
    )


@dataclass
class _TimedReader:
    """Reader of the records of a file, in their order.

    Attributes:
        unit: Unit of the times, None = the format's own.
        placed: Turns that say only how long after the one before they came.
        taken: Units that were taken for the format's own.
        turns: Arrival of the latest turn of each session.
    """

    unit: Unit | None
    placed: int = 0
    taken: set[Unit] = field(default_factory=set)
    turns: dict[str | int, int] = field(default_factory=dict)

    def request(self, record: dict[str, Any]) -> Request:
        """The request of a record."""
        timed = convert(record, _Timed)
        own: Unit = "ms" if timed.chat_id is None else "s"
        if self.unit is None:
            self.taken.add(own)
        time = self._time(timed, self.unit or own)
        if timed.session_id is not None:
            self.turns[timed.session_id] = time
        return (
            time,
            tokens("prompt", "input_length", timed.input_length),
            tokens("output", "output_length", timed.output_length),
            NAMELESS if timed.chat_id is None else hash(timed.chat_id),
        )

    def _time(self, timed: _Timed, unit: Unit) -> int:
        if timed.timestamp is not None:
            return nanoseconds("timestamp", timed.timestamp, unit)
        if timed.delay is None:
            raise ValueError("timestamp: expected a value, got none")
        if timed.session_id is None or timed.session_id not in self.turns:
            session = shown(timed.session_id)
            raise ValueError(f"timestamp: expected one in the first turn of {session}, got none")
        self.placed += 1
        before = self.turns[timed.session_id]
        return nanoseconds("delay", before + nanoseconds("delay", timed.delay, unit), "ns")

    def assumed(self) -> Iterator[str]:
        """What the file does not say."""
        for unit in sorted(self.taken):
            yield f"timestamp: times are in {unit} (--unit)"
        if self.placed:
            yield (
                f"delay: {self.placed} turns without a timestamp come so long after the arrival of "
                "the turn before, as if its answer took no time"
            )


def _first_record(path: Path) -> dict[str, Any]:
    """First record of a JSON file, empty where there is none."""
    if is_array(path):
        first = next(read_array(path), (0, None))[1]
        return first if isinstance(first, dict) else {}
    for _, line in read_lines(path):
        record = _decoded(line)
        if record:
            return record
    return {}


def _decoded(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


# -- AIPerf ---------------------------------------------------------------------------------------


class _Metadata(msgspec.Struct):
    request_start_ns: _Time
    x_request_id: str | None = None


def _aiperf_format(path: Path, unit: Unit | None) -> Format:
    check_no_unit(unit, "AIPerf's request_start_ns")
    return Format(
        "AIPerf's records",
        "metadata.request_start_ns",
        partial(numbered_records, path, _profiled_request),
        _place_of(path),
        identity="metadata.x_request_id",
        ordered=lambda: False,  # records are written as the answers end
        any_unit=False,
    )


def _profiled_request(record: dict[str, Any]) -> Request:
    profiled = convert(record, Profiled)
    metadata = convert(profiled.metadata, _Metadata, "metadata")
    time = nanoseconds("metadata.request_start_ns", metadata.request_start_ns, "ns")
    name = metadata.x_request_id
    return time, *profiled.lengths, NAMELESS if name is None else hash(name)


# -- vLLM's benchmark -----------------------------------------------------------------------------


class _Result(msgspec.Struct):
    start_times: list[float]
    input_lens: list[int]
    output_lens: list[int]
    errors: list[Any] | None = None


def _is_result(path: Path) -> bool:
    """Whether a file of an object, and not of lines, begins like a result of vLLM's benchmark."""
    line = first_line(path)
    if len(line) > MAX_LINE_BYTES or line.strip() == b"{":
        return True
    return bool({"start_times", "input_lens"} & _decoded(line).keys())


def _result_format(path: Path, unit: Unit | None) -> Format:
    check_no_unit(unit, "the seconds of vLLM's benchmark")
    result = _read_result(path)
    errors = result.errors or [""] * len(result.start_times)
    rows = zip(result.start_times, result.input_lens, result.output_lens, errors, strict=True)
    return Format(
        "vLLM's benchmark",
        "start_times",
        partial(parse_entries, path, enumerate(rows), _result_request, place="entry"),
        "entry",
        ordered=lambda: False,  # entries are in order of the prompts
        any_unit=False,
    )


def _read_result(path: Path) -> _Result:
    content = read_whole(path, MAX_RESULT_BYTES)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: expected one JSON object, got {error}") from None
    try:
        result = convert(document, _Result)
    except ValueError as reason:
        raise TraceError(f"{path}: {reason} (`vllm bench serve --save-detailed`)") from None
    lists = asdict(result).items()
    lengths = {name: len(values) for name, values in lists if values is not None}
    if len(set(lengths.values())) > 1:
        raise TraceError(f"{path}: start_times: expected lists of one length, got {lengths}")
    return result


def _result_request(row: tuple[float, int, int, Any]) -> Request:
    time, prompt, output, error = row
    if error:
        raise NoTokensError("output", f"errors: expected none, got {shown(error)}")
    return (
        nanoseconds("start_times", time, "s"),
        tokens("prompt", "input_lens", prompt),
        tokens("output", "output_lens", output),
        NAMELESS,
    )
