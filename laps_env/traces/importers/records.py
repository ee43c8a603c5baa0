"""Reading foreign line-by-line records: every error names the file, the line and the field."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from laps_env.traces.file import TraceError

MOST_INTEGER = 2**62  # int64 sums of two do not wrap


@dataclass(frozen=True)
class Record:
    """A JSON object and the place it was read from, with checked access to its members."""

    values: dict[str, Any]
    place: str

    def fail(self, name: str, expected: str, actual: object) -> NoReturn:
        """Raise TraceError for the member `name`; long values are shortened."""
        shown = repr(actual)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        raise TraceError(f"{self.place}, {name}: expected {expected}, got {shown}")

    def get(self, name: str) -> Any:
        """The member `name`, which must be there."""
        if name not in self.values:
            self.fail(name, "a value", None)
        return self.values[name]

    def integer(self, name: str, minimum: int, maximum: int = MOST_INTEGER) -> int:
        """An integer in `minimum` .. `maximum`."""
        value = self.get(name)
        if type(value) is not int or not minimum <= value <= maximum:
            most = "" if maximum == MOST_INTEGER else f" and <= {maximum}"
            self.fail(name, f"an integer >= {minimum}{most}", value)
        return value

    def number(self, name: str, maximum: float) -> float:
        """A number in 0 .. `maximum`."""
        value = self.get(name)
        if type(value) not in (int, float) or not 0 <= value <= maximum:
            self.fail(name, f"a number in 0 .. {maximum:g}", value)
        return float(value)

    def text(self, name: str) -> str:
        """A non-empty string."""
        value = self.get(name)
        if not isinstance(value, str) or not value:
            self.fail(name, "a non-empty string", value)
        return value

    def member(self, name: str) -> "Record":
        """An object inside this one."""
        value = self.get(name)
        if not isinstance(value, dict):
            self.fail(name, "an object", value)
        return Record(value, f"{self.place}, {name}")

    def integers(self, name: str, minimum: int, maximum: int) -> NDArray[np.int64]:
        """A non-empty list of integers as an array."""
        value = self.get(name)
        if not isinstance(value, list) or not value:
            self.fail(name, "a non-empty list of integers", value)
        for k, item in enumerate(value):
            if type(item) is not int or not minimum <= item <= maximum:
                self.fail(f"{name}[{k}]", f"an integer in {minimum} .. {maximum}", item)
        return np.array(value, np.int64)


class Sieve:
    """Says what becomes of lines that are no request to serve, and counts them.

    Args:
        skip_bad: leave malformed lines out; by default the first is an error.
        skip_failed: leave out requests without output, which are an error too by default.

    Attributes:
        dropped: lines by what was wrong with them.
        first: the first message of each kind.
    """

    def __init__(self, *, skip_bad: bool = False, skip_failed: bool = False) -> None:
        self._skip_bad, self._skip_failed = skip_bad, skip_failed
        self.dropped: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def bad(self, error: TraceError) -> None:
        """A malformed line."""
        if not self._skip_bad:
            raise error
        self._count("malformed", error)

    def failed(self, error: TraceError) -> None:
        """A request without output."""
        if not self._skip_failed:
            raise error
        self._count("without output", error)

    def _count(self, kind: str, error: TraceError) -> None:
        self.dropped[kind] += 1
        self.first.setdefault(kind, str(error))


def read_records(path: Path, sieve: Sieve | None = None) -> Iterator[Record]:
    """The JSON objects of a JSONL file, plain or gzip; blank lines are skipped.

    Raises TraceError for a damaged gzip stream, for an empty file, and, unless the sieve says
    otherwise, for a line that is no JSON object.
    """
    sieve = sieve or Sieve()
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    line = 0
    empty = True
    with gzip.open(path) if compressed else path.open("rb") as file:
        while True:
            line += 1
            place = f"{path}: line {line}"
            try:
                text = file.readline()
                if not text:
                    break
                if not text.strip():
                    continue
            except (EOFError, OSError, zlib.error) as error:
                raise TraceError(f"{place}: expected a JSON object, got {error}") from None
            empty = False
            try:
                record = Record(_object(place, text), place)
            except TraceError as error:
                sieve.bad(error)
            else:
                yield record
    if empty:
        raise TraceError(f"{path}: expected at least one record, got an empty file")


def _object(place: str, text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{place}: expected a JSON object, got {error}") from None
    if not isinstance(value, dict):
        raise TraceError(f"{place}: expected a JSON object, got {type(value).__name__}")
    return value
