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

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from laps_env.traces.file import TraceError
from laps_env.traces.importers.records import Sieve, read_records

#: Latest time of a trace in seconds; int64 nanoseconds hold little more.
LATEST_S = 9e9

_AZURE_TIME = re.compile(
    r"(20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?)(?:Z|\+00:00)?", re.ASCII
)
_SECONDS = re.compile(r"\d{1,10}(\.\d{1,9})?", re.ASCII)
_TOKENS = re.compile(r"\d{1,18}", re.ASCII)


@dataclass(frozen=True, eq=False)
class ArrivalTrace:
    """R requests in order of arrival."""

    arrival_ns: NDArray[np.int64]
    """[R] non-decreasing, from 0."""
    prompt_tokens: NDArray[np.int64]
    """[R] >= 1."""
    output_tokens: NDArray[np.int64]
    """[R] >= 1."""
    source: str


class _Line(NamedTuple):
    """A line that can be read: its place in the file, time, lengths."""

    place: str
    time_ns: int
    prompt: int
    output: int


class _Columns(NamedTuple):
    """What a format calls what is read."""

    time: str
    prompt: str
    output: str


_AZURE = _Columns("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BURSTGPT = _Columns("Timestamp", "Request tokens", "Response tokens")
_MOONCAKE = _Columns("timestamp", "input_length", "output_length")


def read_arrivals(path: str | Path, sieve: Sieve | None = None) -> ArrivalTrace:
    """Read any of the formats, told apart by the file's ending and its columns.

    Args:
        path: ``.csv``, ``.jsonl`` or ``.jsonl.gz``.
        sieve: by default every line must be a request.

    Raises:
        TraceError: naming the file, the line and the column: missing columns or values, times
            that run backwards, token counts below 1, no request at all.
        OSError: it cannot be read.
    """
    path, sieve = Path(path), sieve or Sieve()
    if path.suffix == ".csv":
        names, lines = _csv_lines(path, sieve)
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        names, lines = _MOONCAKE, _json_lines(path, sieve)
    else:
        raise TraceError(f"arrival trace: expected a .csv, .jsonl or .jsonl.gz file, got {path}")
    kept: list[tuple[int, int, int]] = []
    for line in lines:
        if kept and line.time_ns < kept[-1][0]:
            earlier = f"{kept[-1][0] - line.time_ns} ns before it"
            sieve.bad(_error(line.place, names.time, "a time not before the line above", earlier))
        elif line.output == 0:
            sieve.failed(_error(line.place, names.output, "an integer >= 1", 0))
        else:
            kept.append((line.time_ns, line.prompt, line.output))
    if not kept:
        raise TraceError(f"{path}: expected at least one request, got none")
    times, prompts, outputs = (np.array(part, np.int64) for part in zip(*kept, strict=True))
    return ArrivalTrace(times - times[0], prompts, outputs, path.name)


def _csv_rows(path: Path, sieve: Sieve) -> Iterator[tuple[str, list[str]]]:
    """Place and fields of each line; no format here breaks lines in a field, quoted or not."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{path}: line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                (row,) = list(csv.reader([text], strict=True)) or [[]]
            except (csv.Error, UnicodeDecodeError) as error:
                sieve.bad(_error(place, "row", "comma-separated text", error))
            else:
                if row:
                    yield place, row


def _csv_lines(path: Path, sieve: Sieve) -> tuple[_Columns, Iterator[_Line]]:
    """The format that the header is of, and the lines below it."""
    rows = _csv_rows(path, sieve)
    place, header = next(rows, ("", []))
    if not header:
        raise TraceError(f"{path}: expected at least one request, got an empty file")
    names = _BURSTGPT if _BURSTGPT.time in header else _AZURE
    if names.time not in header:
        expected = f"a column {_AZURE.time} (Azure) or {_BURSTGPT.time} (BurstGPT)"
        _fail(place, "header", expected, header)
    for name in names:
        if header.count(name) != 1:
            _fail(place, name, f"one column of that name, of {list(names)}", header)
    return names, _requests(rows, header, names, sieve)


def _requests(
    rows: Iterator[tuple[str, list[str]]], header: list[str], names: _Columns, sieve: Sieve
) -> Iterator[_Line]:
    parse_time = _azure_ns if names is _AZURE else _burstgpt_ns
    when, prompt, output = (header.index(name) for name in names)
    for place, row in rows:
        try:
            if len(row) != len(header):
                _fail(place, "row", f"{len(header)} values", len(row))
            lengths = _tokens(place, names.prompt, row[prompt], 1)
            answer = _tokens(place, names.output, row[output], 0)
            line = _Line(place, parse_time(place, row[when]), lengths, answer)
        except TraceError as error:
            sieve.bad(error)
        else:
            yield line


def _json_lines(path: Path, sieve: Sieve) -> Iterator[_Line]:
    for record in read_records(path, sieve):
        try:
            time_ns = round(record.number(_MOONCAKE.time, LATEST_S * 1e3) * 1e6)
            prompt = record.integer(_MOONCAKE.prompt, 1)
            line = _Line(record.place, time_ns, prompt, record.integer(_MOONCAKE.output, 0))
        except TraceError as error:
            sieve.bad(error)
        else:
            yield line


def _tokens(place: str, name: str, text: str, least: int) -> int:
    if not _TOKENS.fullmatch(text) or int(text) < least:
        _fail(place, name, "an integer >= 1", repr(text))
    return int(text)


def _azure_ns(place: str, text: str) -> int:
    found = _AZURE_TIME.fullmatch(text)
    if found is None:
        _fail(place, _AZURE.time, "YYYY-MM-DD hh:mm:ss.fffffff, in UTC", repr(text))
    try:
        return int(np.datetime64(found[1], "ns").astype(np.int64))
    except ValueError:
        _fail(place, _AZURE.time, "a time of the calendar", repr(text))


def _burstgpt_ns(place: str, text: str) -> int:
    if not _SECONDS.fullmatch(text) or float(text) > LATEST_S:
        _fail(place, _BURSTGPT.time, f"seconds in 0 .. {LATEST_S:g}", repr(text))
    whole, _, rest = text.partition(".")
    return int(whole) * 10**9 + int(rest.ljust(9, "0") or 0)


def _error(place: str, name: str, expected: str, actual: object) -> TraceError:
    return TraceError(f"{place}, {name}: expected {expected}, got {actual}")


def _fail(place: str, name: str, expected: str, actual: object) -> NoReturn:
    raise _error(place, name, expected, actual)
