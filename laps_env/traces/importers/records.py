"""Reading the files of other projects: JSON lines, JSON arrays and CSV, plain or gzip.

They are told apart by what they hold, and read one line, or one entry of an array, at a time. Every
error names the file, the line (from 1) or the entry (from 0), and the field. A line or entry is at
most `MAX_LINE_BYTES` long: a small compressed file may hold one that does not fit into memory. JSON
lines may be the events of an HTTP stream, with ``data:`` in front of each and ``data: [DONE]`` at
the end.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from msgspec import Meta

from laps_env.traces.importers.unpacked import (
    DAMAGES,
    MAX_LINE_BYTES,
    first_line,
    open_unpacked,
    read_array,
)
from laps_env.traces.schema import TraceError
from laps_env.utils.checks import check_one_of
from laps_env.utils.documents import shown

Parsed = TypeVar("Parsed")
Entry = TypeVar("Entry")

OnError = Literal["raise", "skip"]

#: Types of members: int64 sums of two such integers do not wrap.
Text = Annotated[str, Meta(min_length=1)]
Id = Annotated[int, Meta(ge=0, le=2**62)]
Tokens = Annotated[int, Meta(ge=1, le=2**62)]

#: One file, or several of one run.
Paths = str | Path | Sequence[str | Path]

#: Events of a stream: what stands in front of each, and what the last one is.
_EVENT, _LAST_EVENT = b"data:", b"data: [DONE]"


class NoTokensError(ValueError):
    """A request without a prompt, or without output: one that failed.

    Args:
        what: "prompt" or "output".
        message: Reason, ``field: expected X, got Y``.
    """

    KINDS = ("without prompt", "without output")

    def __init__(self, what: Literal["prompt", "output"], message: str) -> None:
        super().__init__(message)
        self.kind = f"without {what}"


@dataclass
class LeftOut:
    """Report of an import: what it has left out, by what was wrong with it, and what it assumed.

    Attributes:
        lines: Number of lines of each kind that were left out.
        first: Message of the first line of each kind.
        assumed: What the files do not say and was assumed, in words.
    """

    lines: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)

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
    return path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")


def read_files(
    paths: Paths,
    parser_of: Callable[[Path], Callable[[dict[str, Any]], Sequence[Parsed]]],
    *,
    on_error: OnError,
    on_failed: OnError = "raise",
    on_cut: OnError = "raise",
    left_out: LeftOut | None,
) -> dict[Path, list[Parsed]]:
    """Requests of each file of one import.

    Args:
        paths: File, or several of one run.
        parser_of: Function from a file to what makes requests of its records, in their order.
        on_error: Treatment of a malformed line: "raise" the error, or "skip" the line.
        on_failed: Treatment of a request without prompt or output, likewise.
        on_cut: Treatment of a last line that ends too early, likewise.
        left_out: Report, to which skipped lines are added.

    Raises:
        TraceError: What `parse_records` raises; no file, or one that is named twice.
        OSError: A file cannot be read.
    """
    files = {}
    for path in _listed(paths):
        records = parse_records(
            path,
            parser_of(path),
            on_error=on_error,
            on_failed=on_failed,
            on_cut=on_cut,
            left_out=left_out,
        )
        files[path] = [request for made in records for request in made]
    return files


def parse_records(
    path: Path, parse: Callable[[dict[str, Any]], Parsed], **errors: Any
) -> Iterator[Parsed]:
    """Parse the records of a file one by one, plain or gzip; blank lines are skipped.

    Args:
        path: File of JSON objects, a line each, or of one JSON array of them.
        parse: Function that makes something of a record.
        errors: Treatment of what is wrong (see `parse_entries`).

    Raises:
        TraceError: What `parse_entries` raises.
        OSError: The file cannot be read.
    """
    for _, parsed in numbered_records(path, parse, **errors):
        yield parsed


def numbered_records(
    path: Path, parse: Callable[[dict[str, Any]], Parsed], **errors: Any
) -> Iterator[tuple[int, Parsed]]:
    """Parse the records of a file as `parse_records` does, each with its number.

    Lines are numbered from 1, entries of an array from 0.
    """
    if is_array(path):
        entries = read_array(path)
        return parse_entries(
            path, entries, lambda value: parse(_object(value)), place="entry", **errors
        )
    return parse_entries(path, read_lines(path), lambda line: parse(_json_object(line)), **errors)


def is_array(path: Path) -> bool:
    """Whether a file holds one JSON array.

    Raises:
        OSError: The file cannot be read.
    """
    return first_line(path).startswith(b"[")


def parse_entries(
    path: Path,
    entries: Iterable[tuple[int, Entry]],
    parse: Callable[[Entry], Parsed],
    *,
    place: str = "line",
    on_error: OnError = "raise",
    on_failed: OnError = "raise",
    on_cut: OnError = "raise",
    left_out: LeftOut | None = None,
) -> Iterator[tuple[int, Parsed]]:
    """Parse numbered parts of a file one by one.

    Args:
        path: File, for messages.
        entries: Parts with their numbers.
        parse: Function that makes something of a part; its errors, ``field: expected X, got Y``,
            get the place in front.
        place: Word for a part.
        on_error: Treatment of a malformed part: "raise" the error, or "skip" the part.
        on_failed: Treatment of a request without prompt or output, likewise.
        on_cut: Treatment of a last line without its end, which a killed writer leaves, likewise.
        left_out: Report, to which skipped parts are added.

    Raises:
        TraceError: A part that is not skipped, or none at all.
    """
    treatment = {"malformed": on_error, "cut off": on_cut}
    treatment |= dict.fromkeys(NoTokensError.KINDS, on_failed)
    for name, value in (("on_error", on_error), ("on_failed", on_failed), ("on_cut", on_cut)):
        check_one_of(name, value, get_args(OnError))
    found = False
    for number, entry in entries:
        try:
            parsed = parse(entry)
        except ValueError as reason:
            message = placed(path, f"{place} {number}", reason)
            kind = reason.kind if isinstance(reason, NoTokensError) else "malformed"
            if on_cut == "skip" and isinstance(entry, bytes) and not entry.endswith(b"\n"):
                kind = "cut off"
            if treatment[kind] == "raise":
                raise TraceError(message) from None
            if left_out is not None:
                left_out.add(kind, message)
        else:
            found = True
            yield number, parsed
    if not found:
        raise TraceError(f"{path}: expected at least one request, got none")


def placed(path: Path, place: str, reason: object) -> str:
    """A reason, ``field: expected X, got Y`` or without a field, behind its place."""
    colon = ":" if str(reason).startswith("expected") else ","
    return f"{path}: {place}{colon} {reason}"


def read_header(path: Path) -> list[str]:
    """Read the names of a CSV file's columns.

    Raises:
        TraceError: An empty file, or a first line that is no CSV.
        OSError: The file cannot be read.
    """
    for _, line in read_lines(path):
        try:
            return csv_values(line)
        except ValueError as reason:
            raise TraceError(f"{path}: line 1, {reason}") from None
    raise TraceError(f"{path}: expected a line with the names of the columns, got an empty file")


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank or a stream's end, with their numbers from 1.

    Raises:
        TraceError: A damaged file, or a line that is too long.
        OSError: The file cannot be read.
    """
    with open_unpacked(path) as file:
        for number in count(1):
            try:
                line = file.readline(MAX_LINE_BYTES + 1)
            except DAMAGES as error:
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
    return _object(value)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {shown(value)}")
    return value


def csv_values(line: bytes) -> list[str]:
    """Values of a CSV line; no format here breaks lines in a field, quoted or not.

    Raises:
        ValueError: No text, or a quote that nothing closes.
    """
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
        return next(csv.reader([text], strict=True)) if '"' in text else text.split(",")
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"row: expected comma-separated text, got {error}") from None
