"""Recorded arrivals: the request traces of Azure, BurstGPT, Mooncake and Bailian.

- Azure, 2023 and 2024: CSV with TIMESTAMP, ContextTokens, GeneratedTokens
  (github.com/Azure/AzurePublicDataset, AzureLLMInferenceTrace_*.csv); times with up to nine
  decimals are kept exactly, a time zone must be UTC.
- BurstGPT: CSV with Timestamp (seconds), "Request tokens", "Response tokens"
  (github.com/HPMLL/BurstGPT); a response of 0 tokens is a request that failed.
- Mooncake: JSONL, plain or gzip, with timestamp (milliseconds), input_length, output_length
  (github.com/kvcache-ai/Mooncake, FAST25-release/traces).
- Bailian: as Mooncake's, but timestamp in seconds; told by its chat_id
  (github.com/alibaba-edu/qwen-bailian-usagetraces-anon).
- Step logs (`laps_env.traces.step_log`): the requests that have left the server, in order of
  arrival, with what an aborted one came to.

GuideLLM's replay reads Mooncake's columns in seconds, and nothing in such a file says so: the
caller has to.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from laps_env.traces.arrival_trace import ArrivalTrace
from laps_env.traces.importers.records import (
    Id,
    LeftOut,
    NoOutputError,
    OnError,
    Tokens,
    parse_records,
    read_header,
)
from laps_env.traces.importers.step_lines import LogLines, is_step_log
from laps_env.traces.schema import TraceError
from laps_env.traces.step_log import LeftRequest, RunHeader
from laps_env.utils.checks import check_one_of
from laps_env.utils.documents import convert, shown

Unit = Literal["s", "ms", "us", "ns"]

#: Nanoseconds of each.
UNIT_NS: dict[Unit, int] = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

#: Requests per second that a recording of one service has on average. All public ones are well
#: inside (0.3 to 7), and leave it when seconds and milliseconds are taken for each other.
PLAUSIBLE_RPS = (0.01, 50.0)

#: Latest time of a trace in seconds; int64 nanoseconds hold little more.
LATEST_S = 9 * 10**9

_JSON_LINES = (".jsonl", ".jsonl.gz")

_AZURE_TIME = re.compile(
    r"(20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?)(?:Z|\+00:00)?", re.ASCII
)
_NUMBER = re.compile(r"\d{1,19}(\.\d{1,9})?", re.ASCII)
_TOKENS = re.compile(r"\d{1,18}", re.ASCII)

#: Arrival in nanoseconds, prompt tokens, output tokens.
_Request = tuple[int, int, int]


class _Columns(NamedTuple):
    """Names of what is read, in one format."""

    time: str
    prompt: str
    output: str


_AZURE = _Columns("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BURSTGPT = _Columns("Timestamp", "Request tokens", "Response tokens")
_MOONCAKE = _Columns("timestamp", "input_length", "output_length")


def read_arrivals(
    path: str | Path,
    *,
    unit: Unit | None = None,
    on_error: OnError = "raise",
    on_failed: OnError = "raise",
    left_out: LeftOut | None = None,
) -> ArrivalTrace:
    """Read any of the formats, told apart by the file's ending and its columns.

    Warns of a mean rate outside `PLAUSIBLE_RPS`, where the unit of the times may be another.

    Args:
        path: File that ends in ``.csv``, ``.jsonl`` or ``.jsonl.gz``.
        unit: Unit of the times; None = the format's own (see the module). Times of the calendar,
            as Azure's, and those of step logs have none.
        on_error: Treatment of a malformed line, one before the line above in time among them:
            "raise" the error, or "skip" the line.
        on_failed: Treatment of a request without output, likewise.
        left_out: Report, to which skipped lines are added.

    Raises:
        TraceError: Missing columns, a line that is not skipped, or no request at all; the message
            names the file, the line and the column.
        ValueError: Another unit, or one for times that have none.
        OSError: The file cannot be read.
    """
    path = Path(path)
    if unit is not None:
        check_one_of("unit", unit, UNIT_NS)
    if path.name.endswith(_JSON_LINES) and is_step_log(path):
        if unit is not None:
            raise ValueError(f"unit: expected none for a step log's seconds, got {unit!r}")
        logged = _logged_requests(path, on_error=on_error, on_failed=on_failed, left_out=left_out)
        return _trace(path, logged)
    columns, request_of = _format_of(path, unit)
    latest = 0

    def parse(record: dict[str, Any]) -> _Request:
        nonlocal latest
        request = time_ns, _, output = request_of(record)
        if time_ns < latest:
            before = f"{latest - time_ns} ns before it"
            raise ValueError(
                f"{columns.time}: expected a time not before the line above, got {before}"
            )
        if output == 0:
            raise NoOutputError(f"{columns.output}: expected an integer >= 1, got 0")
        latest = time_ns
        return request

    requests = parse_records(path, parse, on_error=on_error, on_failed=on_failed, left_out=left_out)
    trace = _trace(path, list(requests))
    if columns is not _AZURE:
        _check_rate(path, trace.arrival_ns)
    return trace


def _trace(path: Path, requests: list[_Request]) -> ArrivalTrace:
    times, prompts, outputs = np.array(requests, np.int64).T.copy()
    return ArrivalTrace(times - times[0], prompts, outputs, path.name)


def _logged_requests(path: Path, **errors: Any) -> list[_Request]:
    """Requests of a step log by their arrivals, those of a server that started again behind."""
    lines, servers = LogLines(), list[list[_Request]]()

    def parse(record: dict[str, Any]) -> None:
        line = lines.parse(record)
        if isinstance(line, RunHeader):
            servers.append([])
        elif isinstance(line, LeftRequest):
            if line.output_tokens == 0:
                raise NoOutputError("request.output_tokens: expected an integer >= 1, got 0")
            time_ns = round(line.arrival_s * 1e9)
            servers[-1].append((time_ns, line.prompt_tokens, line.output_tokens))

    for _ in parse_records(path, parse, on_cut="skip", **errors):
        pass  # parsed into `servers`
    requests = [request for server in servers for request in sorted(server)]
    if not requests:
        raise TraceError(f"{path}: expected at least one request, got none")
    if min(later[0] - before[0] for before, later in pairwise([requests[0], *requests])) < 0:
        raise TraceError(
            f"{path}: request.arrival_s: expected one clock for all servers of the log, got one "
            "that starts again: import each server's lines from a file of their own"
        )
    return requests


def _check_rate(path: Path, times: NDArray[np.int64]) -> None:
    """Warn of a mean rate that says that the times are in another unit."""
    gaps, seconds = len(times) - 1, times[-1] * 1e-9
    least, most = PLAUSIBLE_RPS
    if not least * seconds <= gaps <= most * seconds:
        warnings.warn(
            f"{path}: expected {least:g}..{most:g} requests a second, got {gaps + 1} in "
            f"{seconds:g} s: are the times in another unit? (`laps-env import arrivals --unit`)",
            stacklevel=3,
        )


def _format_of(
    path: Path, unit: Unit | None
) -> tuple[_Columns, Callable[[dict[str, Any]], _Request]]:
    """Names of a file's columns, and what reads one of its records."""
    if path.name.endswith(_JSON_LINES):
        return _MOONCAKE, partial(_json_request, unit)
    if path.suffix != ".csv":
        raise TraceError(f"arrival trace: expected a .csv, .jsonl or .jsonl.gz file, got {path}")
    header = read_header(path)
    columns = _BURSTGPT if _BURSTGPT.time in header else _AZURE
    if columns.time not in header:
        expected = f"a column {_AZURE.time} (Azure) or {_BURSTGPT.time} (BurstGPT)"
        raise TraceError(f"{path}: line 1, header: expected {expected}, got {header}")
    for name in columns:
        if header.count(name) != 1:
            expected = f"one column of that name, of {list(columns)}"
            raise TraceError(f"{path}: line 1, {name}: expected {expected}, got {header}")
    if columns is _AZURE and unit is not None:
        raise ValueError(f"unit: expected none for times of the calendar, got {unit!r}")
    return columns, partial(_csv_request, columns, unit or "s")


class _Timed(msgspec.Struct):
    timestamp: Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)]
    input_length: Tokens
    output_length: Id


def _json_request(unit: Unit | None, record: dict[str, Any]) -> _Request:
    request = convert(record, _Timed)
    own: Unit = "s" if "chat_id" in record else "ms"
    time_ns = _nanoseconds(_MOONCAKE.time, request.timestamp, unit or own)
    return time_ns, request.input_length, request.output_length


def _nanoseconds(name: str, time: float | Decimal, unit: Unit) -> int:
    """Exact for integers and decimals, which a float would round."""
    if not time * UNIT_NS[unit] <= LATEST_S * 10**9:
        latest = LATEST_S * 10**9 // UNIT_NS[unit]
        raise ValueError(f"{name}: expected a number in 0 .. {latest} {unit}, got {shown(time)}")
    return round(time * UNIT_NS[unit])


def _csv_request(columns: _Columns, unit: Unit, record: dict[str, Any]) -> _Request:
    time = record[columns.time]
    return (
        _azure_ns(time) if columns is _AZURE else _burstgpt_ns(time, unit),
        _tokens(columns.prompt, record[columns.prompt], 1),
        _tokens(columns.output, record[columns.output], 0),  # 0 is told apart by `read_arrivals`
    )


def _azure_ns(text: str) -> int:
    found = _AZURE_TIME.fullmatch(text)
    if found is None:
        expected = "YYYY-MM-DD hh:mm:ss.fffffff, in UTC"
        raise ValueError(f"{_AZURE.time}: expected {expected}, got {text!r}")
    try:
        return int(np.datetime64(found[1], "ns").astype(np.int64))
    except ValueError:
        raise ValueError(f"{_AZURE.time}: expected a time of the calendar, got {text!r}") from None


def _burstgpt_ns(text: str, unit: Unit) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{_BURSTGPT.time}: expected a number in {unit}, got {text!r}")
    return _nanoseconds(_BURSTGPT.time, Decimal(text), unit)


def _tokens(name: str, text: str, least: int) -> int:
    if not _TOKENS.fullmatch(text) or int(text) < least:
        raise ValueError(f"{name}: expected an integer >= 1, got {text!r}")
    return int(text)
