"""Reading the line-by-line files of other projects: JSON lines, plain or gzip, and CSV.

Every error names the file, the line and the field. A line is at most `MAX_LINE_BYTES` long: a small
compressed file may hold one that does not fit into memory. JSON lines may be the events of an HTTP
stream, with ``data:`` in front of each and ``data: [DONE]`` at the end.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from msgspec import Meta

from laps_env.traces.schema import TraceError
from laps_env.utils.checks import check_one_of
from laps_env.utils.documents import shown

Parsed = TypeVar("Parsed")

#: Longest line, uncompressed; those of all known formats are far below.
MAX_LINE_BYTES = 2**24

OnError = Literal["raise", "skip"]

#: Types of members: int64 sums of two such integers do not wrap.
Text = Annotated[str, Meta(min_length=1)]
Id = Annotated[int, Meta(ge=0, le=2**62)]
Tokens = Annotated[int, Meta(ge=1, le=2**62)]

#: One file, or several of one run.
Paths = str | Path | Sequence[str | Path]

#: Events of a stream: what stands in front of each, and what the last one is.
_EVENT, _LAST_EVENT = b"data:", b"data: [DONE]"


class NoOutputError(ValueError):
    """A request that has no output: one that failed."""


@dataclass
class LeftOut:
    """Lines that an import has left out, by what was wrong with them.

    Attributes:
        lines: Number of lines of each kind.
        first: Message of the first line of each kind.
    """

    lines: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, message: str) -> None:
        """Count a line."""
        self.lines[kind] += 1
        self.first.setdefault(kind, message)


def _listed(paths: Paths) -> list[Path]:
    """The files of one import.

    Raises:
        TraceError: No file, or one that is named twice, whose requests would count twice.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    names = ", ".join(map(str, files))
    if not files or len({file.resolve() for file in files}) < len(files):
        raise TraceError(f"files: expected one or more, each once, got {names or 'none'}")
    return files


def file_category(path: Path) -> str:
    """Name of the category of requests that do not say theirs: the file's, without its endings."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def read_files(
    paths: Paths,
    parser_of: Callable[[Path], Callable[[dict[str, Any]], Sequence[Parsed]]],
    *,
    on_error: OnError,
    on_cut: OnError = "raise",
    left_out: LeftOut | None,
) -> dict[Path, list[Parsed]]:
    """Requests of each file of one import.

    Args:
        paths: File, or several of one run.
        parser_of: Function from a file to what makes requests of its records, in their order.
        on_error: Treatment of a malformed line: "raise" the error, or "skip" the line.
        on_cut: Treatment of a last line that ends too early, likewise.
        left_out: Report, to which skipped lines are added.

    Raises:
        TraceError: What `parse_records` raises; no file, or one that is named twice.
        OSError: A file cannot be read.
    """
    files = {}
    for path in _listed(paths):
        records = parse_records(
            path, parser_of(path), on_error=on_error, on_cut=on_cut, left_out=left_out
        )
        files[path] = [request for made in records for request in made]
    return files


def parse_records(
    path: Path,
    parse: Callable[[dict[str, Any]], Parsed],
    *,
    on_error: OnError = "raise",
    on_failed: OnError = "raise",
    on_cut: OnError = "raise",
    left_out: LeftOut | None = None,
) -> Iterator[Parsed]:
    """Parse the records of a file one by one; blank lines are skipped.

    Args:
        path: File of JSON objects, a line each, plain or gzip; or ``.csv``, whose records hold
            the texts of a line by the names in the first.
        parse: Function that makes something of a record; its errors, ``field: expected X, got Y``,
            get the place in front.
        on_error: Treatment of a malformed line: "raise" the error, or "skip" the line.
        on_failed: Treatment of a request without output, likewise.
        on_cut: Treatment of a last line without its end, which a killed writer leaves, likewise.
        left_out: Report, to which skipped lines are added.

    Raises:
        TraceError: A damaged file, a line that is too long, a line that is not skipped, or no
            record at all.
        OSError: The file cannot be read.
    """
    treatment = {"malformed": on_error, "without output": on_failed, "cut off": on_cut}
    for name, value in (("on_error", on_error), ("on_failed", on_failed), ("on_cut", on_cut)):
        check_one_of(name, value, get_args(OnError))
    lines, decode, found = read_lines(path), _json_object, False
    if path.suffix == ".csv":
        decode = partial(_csv_record, read_header(path))
        next(lines)
    for number, line in lines:
        try:
            parsed = parse(decode(line))
        except ValueError as reason:
            colon = ":" if str(reason).startswith("expected") else ","
            message = f"{path}: line {number}{colon} {reason}"
            kind = "without output" if isinstance(reason, NoOutputError) else "malformed"
            if on_cut == "skip" and not line.endswith(b"\n"):
                kind = "cut off"
            if treatment[kind] == "raise":
                raise TraceError(message) from None
            if left_out is not None:
                left_out.add(kind, message)
        else:
            found = True
            yield parsed
    if not found:
        raise TraceError(f"{path}: expected at least one request, got none")


def read_header(path: Path) -> list[str]:
    """Read the names of a CSV file's columns.

    Raises:
        TraceError: An empty file, or a first line that is no CSV.
        OSError: The file cannot be read.
    """
    for _, line in read_lines(path):
        try:
            return _csv_values(line)
        except ValueError as reason:
            raise TraceError(f"{path}: line 1, {reason}") from None
    raise TraceError(f"{path}: expected a line with the names of the columns, got an empty file")


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank or a stream's end, with their numbers from 1.

    Raises:
        TraceError: A damaged file, or a line that is too long.
        OSError: The file cannot be read.
    """
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path) if compressed else path.open("rb") as file:
        for number in count(1):
            try:
                line = file.readline(MAX_LINE_BYTES + 1)
            except (EOFError, OSError, zlib.error) as error:
                raise TraceError(f"{path}: line {number}: expected gzip, got {error}") from None
            if len(line) > MAX_LINE_BYTES:
                raise TraceError(
                    f"{path}: line {number}: expected at most {MAX_LINE_BYTES} bytes, got more"
                )
            if not line:
                return
            if line.strip() not in (b"", _LAST_EVENT):
                yield number, line


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.removeprefix(_EVENT).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON object, got {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {shown(value)}")
    return value


def _csv_record(header: list[str], line: bytes) -> dict[str, Any]:
    values = _csv_values(line)
    if len(values) != len(header):
        raise ValueError(f"row: expected {len(header)} values, got {len(values)}")
    return dict(zip(header, values, strict=True))


def _csv_values(line: bytes) -> list[str]:
    """Values of a line; no format here breaks lines in a field, quoted or not."""
    try:
        return next(csv.reader([line.decode("utf-8-sig").rstrip("\r\n")], strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"row: expected comma-separated text, got {error}") from None
