"""Files as they are: plain or gzip, whole, by their first line, or entry by entry of an array."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from laps_env.traces.schema import TraceError

#: Longest line, uncompressed; those of all known formats are far below.
MAX_LINE_BYTES = 2**24

#: Errors of a file that cannot be unpacked.
DAMAGES = (EOFError, OSError, zlib.error)

#: What stands between the entries of a JSON array.
_DELIMITER = re.compile(r"\s*([\[,\]])\s*")
_DECODER = json.JSONDecoder()


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file, plain or gzip by its first bytes.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if compressed else path.open("rb")


def first_line(path: Path) -> bytes:
    """First line of a file that is not blank, or its beginning; nothing of a damaged file.

    Raises:
        OSError: The file cannot be read.
    """
    with open_unpacked(path) as file, suppress(*DAMAGES):
        while line := file.readline(MAX_LINE_BYTES + 1):
            if line.strip():
                return line.removeprefix(b"\xef\xbb\xbf").lstrip()
    return b""


def read_whole(path: Path, most: int) -> bytes:
    """Content of a file that has to fit into memory, at most so many bytes.

    Raises:
        TraceError: A damaged file, or one that is too long.
        OSError: The file cannot be read.
    """
    content = bytearray()
    with open_unpacked(path) as file:
        while len(content) <= most:
            try:
                part = file.read(2**20)
            except DAMAGES as error:
                raise TraceError(f"{path}: expected gzip, got {error}") from None
            if not part:
                return bytes(content)
            content += part
    raise TraceError(f"{path}: expected at most {most} bytes, got more")


def read_array(path: Path) -> Iterator[tuple[int, Any]]:
    """Entries of a JSON array, numbered from 0; one at a time is in memory.

    Raises:
        TraceError: A damaged file, one that is no JSON up to its end, or an entry that is too long.
        OSError: The file cannot be read.
    """
    text, at, number = "", 0, 0
    with open_unpacked(path) as raw, TextIOWrapper(raw, encoding="utf-8-sig") as file:
        while True:
            try:
                entry = _next_entry(text, at)
            except (ValueError, RecursionError) as error:
                text, at = _longer(file, text[at:], f"{path}: entry {number}", error), 0
                continue
            if entry is None:
                return
            value, at = entry
            yield number, value
            number += 1


def _longer(file: TextIO, rest: str, place: str, reason: Exception) -> str:
    """The rest of a text and at least as much again, so that long entries are not slow."""
    try:
        more = file.read(max(len(rest), 2**16))
    except (*DAMAGES, UnicodeDecodeError) as error:
        raise TraceError(f"{place}: expected text, got {error}") from None
    if not more or len(rest) > MAX_LINE_BYTES:
        raise TraceError(f"{place}: expected JSON, got {getattr(reason, 'msg', reason)}")
    return rest + more


def _next_entry(text: str, at: int) -> tuple[Any, int] | None:
    """The entry behind the bracket or comma at a place, and where it ends; None at the array's end.

    Raises:
        ValueError: The text is no JSON, or ends too early.
    """
    found = _DELIMITER.match(text, at)
    if found is None:
        raise ValueError("neither a comma nor a bracket behind an entry")
    if found[1] == "]" or text.startswith("]", found.end()):
        return None
    return _DECODER.raw_decode(text, found.end())
