"""Rows of numbers in files that people make: CSV or JSON lines, plain or gzip, told by content."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from laps_env.traces.importers.records import read_header, read_lines
from laps_env.traces.schema import TraceError
from laps_env.utils.checks import MAX_COUNT, MAX_SECONDS
from laps_env.utils.documents import shown


@dataclass(frozen=True)
class Count:
    """Integers of a column, as 472 or 472.0.

    Attributes:
        least: Least of them.
    """

    least: int = 0

    def check(self, name: str, value: Any) -> int:
        """The value as an integer in `least` .. `MAX_COUNT`."""
        number = _number(value)
        if not (number.is_integer() and self.least <= number <= MAX_COUNT):
            raise ValueError(f"{name}: expected an integer >= {self.least}, got {shown(value)}")
        return int(number)


#: Shortest duration, a nanosecond.
LEAST_SECONDS = 1e-9


@dataclass(frozen=True)
class Seconds:
    """Durations of a column."""

    def check(self, name: str, value: Any) -> float:
        """The value as a number in `LEAST_SECONDS` .. `MAX_SECONDS`."""
        number = _number(value)
        if not LEAST_SECONDS <= number <= MAX_SECONDS:
            expected = f"seconds in {LEAST_SECONDS:g} .. {MAX_SECONDS:g}"
            raise ValueError(f"{name}: expected {expected}, got {shown(value)}")
        return number


Columns = Mapping[str, Count | Seconds]
Made = TypeVar("Made")


def read_rows(
    path: Path, needed: Columns, optional: Columns, make: Callable[[dict[str, Any]], Made]
) -> list[Made]:
    """What is made of each line.

    Args:
        path: File.
        needed: Columns that every line has a value of.
        optional: Columns that may be empty or absent, and then are not in the values.
        make: Function of the checked values; its errors, ``column: expected X, got Y``, get the
            place in front.

    Raises:
        TraceError: A damaged file, no CSV or JSON, or a value that is missing or wrong; the message
            names the file, the line and the column.
        OSError: The file cannot be read.
    """
    return list(_made(path, needed, optional, make))


def _made(
    path: Path, needed: Columns, optional: Columns, make: Callable[[dict[str, Any]], Made]
) -> Iterator[Made]:
    for number, record in _records(path, needed):
        try:
            yield make(_checked(record(), needed, optional))
        except ValueError as reason:
            colon = ":" if str(reason).startswith("expected") else ","
            raise TraceError(f"{path}: line {number}{colon} {reason}") from None


def _records(path: Path, needed: Columns) -> Iterator[tuple[int, Callable[[], dict[str, Any]]]]:
    """Lines with their numbers, each behind a function that makes a record of it."""
    header: list[str] | None = None
    for number, line in read_lines(path):
        if header is None and not line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
            header = read_header(path)
            _check_header(path, header, needed)
            continue
        header = header or []
        yield number, partial(_csv, header, line) if header else partial(_json, line)


def _check_header(path: Path, header: list[str], needed: Columns) -> None:
    for name in needed:
        if header.count(name) != 1:
            expected = f"one column of that name, of {', '.join(needed)}"
            raise TraceError(f"{path}: line 1, {name}: expected {expected}, got {shown(header)}")


def _csv(header: list[str], line: bytes) -> dict[str, Any]:
    try:
        values = next(csv.reader([line.decode().rstrip("\r\n")], strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"row: expected comma-separated text, got {error}") from None
    if len(values) != len(header):
        raise ValueError(f"row: expected {len(header)} values, got {len(values)}")
    return dict(zip(header, values, strict=True))


def _json(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON object, got {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {shown(value)}")
    return value


def _checked(record: dict[str, Any], needed: Columns, optional: Columns) -> dict[str, Any]:
    for name in needed:
        if record.get(name) in (None, ""):
            raise ValueError(f"{name}: expected a value, got none")
    wanted = {**needed, **optional}
    return {
        name: kind.check(name, record[name])
        for name, kind in wanted.items()
        if record.get(name) not in (None, "")
    }


def _number(value: Any) -> float:
    """A number or its text as a float; NaN where it is neither."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return float("nan")
    try:
        return float(value)
    except (ValueError, OverflowError):
        return float("nan")
