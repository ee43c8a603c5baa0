"""Arrivals in CSV: Azure's, BurstGPT's, Vidur's, and columns that the caller names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from laps_env.traces.importers.arrival_format import NAMELESS, Format, Request, check_no_unit
from laps_env.traces.importers.arrival_times import (
    CalendarClock,
    NumberClock,
    Unit,
    is_number,
    tokens,
)
from laps_env.traces.importers.records import csv_values, parse_entries, read_header, read_lines
from laps_env.traces.schema import TraceError
from laps_env.utils.documents import shown


class _Columns(NamedTuple):
    """Names of what is read, in one format."""

    format: str
    time: str
    prompt: str
    output: str
    identity: str | None = None


_AZURE = _Columns("Azure's CSV", "TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BURSTGPT = _Columns("BurstGPT's CSV", "Timestamp", "Request tokens", "Response tokens")
_VIDUR = _Columns("Vidur's CSV", "arrived_at", "num_prefill_tokens", "num_decode_tokens")


def csv_format(path: Path, given: Mapping[str, str] | None, unit: Unit | None) -> Format:
    """Format of a CSV file, by its header.

    Args:
        path: File.
        given: Names of the columns of a file of no known format.
        unit: Unit of times that are numbers; None = the format's own, else seconds.

    Raises:
        TraceError: Columns that are missing or there twice.
        ValueError: Names that are not those of columns, or a unit for times of the calendar.
        OSError: The file cannot be read.
    """
    header = read_header(path)
    columns = _known(path, header) if given is None else _named(given)
    names = [columns.time, columns.prompt, columns.output]
    names += [] if columns.identity is None else [columns.identity]
    for name in names:
        if header.count(name) != 1:
            expected = f"one column of that name, of {names}"
            raise TraceError(f"{path}: line 1, {name}: expected {expected}, got {header}")
    clock = _clock(path, columns, header.index(columns.time), unit)
    parse = _row_parser(columns, header, clock)
    return Format(
        columns.format,
        columns.time,
        partial(_csv_requests, path, parse),
        identity=columns.identity,
        any_unit=isinstance(clock, NumberClock),
        assumed=lambda: clock.assumed,
    )


def _csv_requests(path: Path, parse: Callable[[bytes], Request], **errors: Any) -> Any:
    return parse_entries(path, islice(read_lines(path), 1, None), parse, **errors)


def _known(path: Path, header: list[str]) -> _Columns:
    for columns in (_AZURE, _BURSTGPT, _VIDUR):
        if columns.time in header:
            return columns
    names = f"{_AZURE.time} (Azure), {_BURSTGPT.time} (BurstGPT) or {_VIDUR.time} (Vidur)"
    raise TraceError(
        f"{path}: line 1, header: expected a column {names}, got {shown(header)}: name the columns "
        "(`laps-env import arrivals --columns arrival=...,prompt=...,output=...`)"
    )


def _named(given: Mapping[str, str]) -> _Columns:
    names = dict(given)
    identity = names.pop("id", None)
    if names.keys() != {"arrival", "prompt", "output"}:
        expected = "arrival=NAME,prompt=NAME,output=NAME and no other but id=NAME"
        raise ValueError(f"columns: expected {expected}, got {dict(given)}")
    return _Columns("CSV", names["arrival"], names["prompt"], names["output"], identity)


def _clock(
    path: Path, columns: _Columns, at: int, unit: Unit | None
) -> CalendarClock | NumberClock:
    """Reader of the times: of the calendar, or in the unit, by default seconds."""
    if columns is _AZURE or (columns.format == "CSV" and not _has_numbers(path, at)):
        check_no_unit(unit, "times of the calendar")
        return CalendarClock(columns.time)
    if unit is not None:
        return NumberClock(columns.time, unit)
    return NumberClock(columns.time, "s", f"{columns.time}: times are in s (--unit)")


def _has_numbers(path: Path, at: int) -> bool:
    """Whether one of the first lines behind the header has a number there."""
    for _, line in islice(read_lines(path), 1, 10):
        with suppress(ValueError, IndexError):
            if is_number(csv_values(line)[at]):
                return True
    return False


def _row_parser(
    columns: _Columns, header: list[str], clock: CalendarClock | NumberClock
) -> Callable[[bytes], Request]:
    width, at = len(header), [header.index(name) for name in columns[1:4]]
    named = None if columns.identity is None else header.index(columns.identity)
    time, prompt, output = at

    def parse(line: bytes) -> Request:
        values = csv_values(line)
        if len(values) != width:
            raise ValueError(f"row: expected {width} values, got {len(values)}")
        return (
            clock(values[time]),
            tokens("prompt", columns.prompt, values[prompt]),
            tokens("output", columns.output, values[output]),
            NAMELESS if named is None or not values[named] else hash(values[named]),
        )

    return parse
