"""Recorded arrivals: the request traces of Azure, BurstGPT and Mooncake.

- Azure, 2023 and 2024: CSV with TIMESTAMP, ContextTokens, GeneratedTokens
  (github.com/Azure/AzurePublicDataset, AzureLLMInferenceTrace_*.csv); times with up to nine
  decimals are kept exactly, a time zone must be UTC.
- BurstGPT: CSV with Timestamp (seconds), "Request tokens", "Response tokens"
  (github.com/HPMLL/BurstGPT); a response of 0 tokens is a request that failed.
- Mooncake: JSONL, plain or gzip, with timestamp (milliseconds), input_length, output_length
  (github.com/kvcache-ai/Mooncake, FAST25-release/traces).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

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
from laps_env.traces.schema import TraceError
from laps_env.utils.documents import convert

#: Latest time of a trace in seconds; int64 nanoseconds hold little more.
LATEST_S = 9e9

_AZURE_TIME = re.compile(
    r"(20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?)(?:Z|\+00:00)?", re.ASCII
)
_SECONDS = re.compile(r"\d{1,10}(\.\d{1,9})?", re.ASCII)
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
    on_error: OnError = "raise",
    on_failed: OnError = "raise",
    left_out: LeftOut | None = None,
) -> ArrivalTrace:
    """Read any of the formats, told apart by the file's ending and its columns.

    Args:
        path: File that ends in ``.csv``, ``.jsonl`` or ``.jsonl.gz``.
        on_error: Treatment of a malformed line, one before the line above in time among them:
            "raise" the error, or "skip" the line.
        on_failed: Treatment of a request without output, likewise.
        left_out: Report, to which skipped lines are added.

    Raises:
        TraceError: Missing columns, a line that is not skipped, or no request at all; the message
            names the file, the line and the column.
        OSError: The file cannot be read.
    """
    path = Path(path)
    columns, request_of = _format_of(path)
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
    times, prompts, outputs = np.array(list(requests), np.int64).T.copy()
    return ArrivalTrace(times - times[0], prompts, outputs, path.name)


def _format_of(path: Path) -> tuple[_Columns, Callable[[dict[str, Any]], _Request]]:
    """Names of a file's columns, and what reads one of its records."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _MOONCAKE, _mooncake_request
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
    return columns, partial(_csv_request, columns)


class _Mooncake(msgspec.Struct):
    timestamp: Annotated[float, Meta(ge=0, le=LATEST_S * 1e3)]
    input_length: Tokens
    output_length: Id


def _mooncake_request(record: dict[str, Any]) -> _Request:
    request = convert(record, _Mooncake)
    return round(request.timestamp * 1e6), request.input_length, request.output_length


def _csv_request(columns: _Columns, record: dict[str, Any]) -> _Request:
    nanoseconds = _azure_ns if columns is _AZURE else _burstgpt_ns
    return (
        nanoseconds(record[columns.time]),
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


def _burstgpt_ns(text: str) -> int:
    if not _SECONDS.fullmatch(text) or float(text) > LATEST_S:
        raise ValueError(f"{_BURSTGPT.time}: expected seconds in 0 .. {LATEST_S:g}, got {text!r}")
    whole, _, rest = text.partition(".")
    return int(whole) * 10**9 + int(rest.ljust(9, "0") or 0)


def _tokens(name: str, text: str, least: int) -> int:
    if not _TOKENS.fullmatch(text) or int(text) < least:
        raise ValueError(f"{name}: expected an integer >= 1, got {text!r}")
    return int(text)
