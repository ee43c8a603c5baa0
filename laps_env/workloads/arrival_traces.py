"""Recorded arrivals: Azure's LLM inference trace of 2023 and Mooncake's request traces."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from laps_env.traces.file import TraceError
from laps_env.traces.records import read_records

_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_AZURE_TIME = re.compile(r"20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,9})?", re.ASCII)
_TOKENS = re.compile(r"\d{1,18}", re.ASCII)

#: Latest `timestamp` of a Mooncake trace in milliseconds; int64 nanoseconds hold little more.
LATEST_MS = 9e12


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


def read_azure_arrivals(path: str | Path) -> ArrivalTrace:
    """Read a CSV with the columns TIMESTAMP, ContextTokens and GeneratedTokens.

    github.com/Azure/AzurePublicDataset (AzureLLMInferenceTrace_*.csv); the times have seven
    decimals and are kept exactly. Raises TraceError naming the file, the line and the column for
    times that run backwards, missing columns or values, and token counts below 1.
    """
    path = Path(path)
    times: list[str] = []
    tokens: list[tuple[str, str]] = []
    lines: list[int] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            for column in _AZURE_COLUMNS:
                if column not in header:
                    _fail(path, 1, column, f"a column in {list(_AZURE_COLUMNS)}", header)
            when, prompt, output = (header.index(column) for column in _AZURE_COLUMNS)
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    _fail(path, reader.line_num, "row", f"{len(header)} values", len(row))
                if not _AZURE_TIME.fullmatch(row[when]):
                    expected = "YYYY-MM-DD hh:mm:ss.fffffff"
                    _fail(path, reader.line_num, _AZURE_COLUMNS[0], expected, repr(row[when]))
                for column, i in zip(_AZURE_COLUMNS[1:], (prompt, output), strict=True):
                    if not _TOKENS.fullmatch(row[i]):
                        _fail(path, reader.line_num, column, "an integer >= 1", repr(row[i]))
                times.append(row[when])
                tokens.append((row[prompt], row[output]))
                lines.append(reader.line_num)
        except (csv.Error, UnicodeDecodeError) as error:
            _fail(path, reader.line_num + 1, "row", "comma-separated text", error)
    if not times:
        raise TraceError(f"{path}: expected at least one request, got none")
    counts = np.array(tokens).astype(np.int64)
    for column, count in zip(_AZURE_COLUMNS[1:], counts.T, strict=True):
        if (wrong := count < 1).any():
            i = int(np.argmax(wrong))
            _fail(path, lines[i], column, "an integer >= 1", count[i])
    arrivals = _parse_times(path, lines, times)
    backwards = np.flatnonzero(np.diff(arrivals) < 0)
    if backwards.size:
        i = int(backwards[0]) + 1
        expected = f"a time not before {times[i - 1]}"
        _fail(path, lines[i], _AZURE_COLUMNS[0], expected, times[i])
    return _trace(path, arrivals, counts)


def read_mooncake_arrivals(path: str | Path) -> ArrivalTrace:
    """Read JSONL with `timestamp` (milliseconds), `input_length` and `output_length`, or gzip.

    github.com/kvcache-ai/Mooncake (FAST25-release/traces). Raises TraceError as the Azure reader.
    """
    path = Path(path)
    names = ("timestamp", "input_length", "output_length")
    times: list[int] = []
    tokens: list[tuple[int, int]] = []
    for record in read_records(path):
        time = round(record.number(names[0], LATEST_MS) * 1e6)
        if times and time < times[-1]:
            earlier = f"{times[-1] - time} ns before it"
            record.fail(names[0], "a time not before the line above", earlier)
        times.append(time)
        tokens.append((record.integer(names[1], 1), record.integer(names[2], 1)))
    return _trace(path, np.array(times, np.int64), np.array(tokens, np.int64))


def _parse_times(path: Path, lines: list[int], times: list[str]) -> NDArray[np.int64]:
    """[R] nanoseconds; the calendar is checked here, the shape of the text by the caller."""
    try:
        return np.array(times, dtype="datetime64[ns]").astype(np.int64)
    except ValueError:
        for line, text in zip(lines, times, strict=True):
            try:
                np.datetime64(text, "ns")
            except ValueError:
                _fail(path, line, _AZURE_COLUMNS[0], "a time of the calendar", repr(text))
        raise


def _trace(path: Path, times: NDArray[np.int64], tokens: NDArray[np.int64]) -> ArrivalTrace:
    return ArrivalTrace(
        arrival_ns=times - times[0],
        prompt_tokens=np.ascontiguousarray(tokens[:, 0]),
        output_tokens=np.ascontiguousarray(tokens[:, 1]),
        source=path.name,
    )


def _fail(path: Path, line: int, name: str, expected: str, actual: object) -> NoReturn:
    raise TraceError(f"{path}: line {line}, {name}: expected {expected}, got {actual}")
