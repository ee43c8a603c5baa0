"""The journal of a long job: what is finished, so that a job that was cut off can go on."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import msgspec

from laps_env.utils.documents import convert
from laps_env.utils.files import locked, write_beside


class Journal:
    """Finished parts of a job, a JSON line each, under a line that says what job it is.

    The file is locked while the journal is open. Damaged lines at its end, where the process was
    killed or the machine lost power, are dropped: those parts are done again. Safe from threads.

    Args:
        path: File, which is opened where it exists, else begun.
        job: Everything that tells the job from others; a journal of another job is refused.
        entry: Type that an entry must have: a dict, or a TypedDict that names its members.

    Attributes:
        entries: Finished parts, of this process and of earlier ones.

    Raises:
        ValueError: The file is no journal, one of another job, in use, or damaged before its end.
        OSError: The file cannot be read or written.
    """

    def __init__(self, path: Path, job: dict[str, Any], entry: Any = dict[str, Any]) -> None:
        self.path = path
        self.entries: list[Any] = []
        self._writing = Lock()
        self._open = ExitStack()
        with ExitStack() as opening:
            opening.enter_context(locked(path))
            self._resume(json.loads(json.dumps(job)), entry)
            self._file = opening.enter_context(path.open("a", encoding="utf-8"))
            self._open = opening.pop_all()

    def _resume(self, job: dict[str, Any], entry: Any) -> None:
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        if lines and _read(lines[0], dict[str, Any]) != job:
            raise ValueError(
                f"{self.path}: expected a journal of {json.dumps(job)}, got one of "
                f"{lines[0].decode(errors='replace').strip()}; remove it to start anew"
            )
        read = [_read(line, entry) for line in lines[1:]]
        while read and read[-1] is None:
            read.pop()
        if None in read:
            raise ValueError(
                f"{self.path}: line {read.index(None) + 2}: expected a finished part, got a "
                "damaged line; remove it to do that part again"
            )
        self.entries = read
        if not lines or len(read) < len(lines) - 1:
            head = (json.dumps(job) + "\n").encode()
            write_beside(self.path, [head, *lines[1 : 1 + len(read)]])

    def add(self, entry: dict[str, Any]) -> None:
        """Keep a finished part; it is in the file when this returns.

        Raises:
            ValueError: Numbers that JSON does not have.
        """
        line = json.dumps(entry, allow_nan=False) + "\n"
        with self._writing:
            self._file.write(line)
            self._file.flush()
            self.entries.append(entry)

    def close(self) -> None:
        """Close the file, which stays if it holds a finished part."""
        if not self._file.closed and not self.entries:
            self.remove()
        self._open.close()

    def remove(self) -> None:
        """Close and delete the file: the results are complete elsewhere."""
        self._file.close()
        self.path.unlink(missing_ok=True)
        self._open.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _read(line: bytes, kind: Any) -> dict[str, Any] | None:
    """The object of a line, None where it is damaged."""
    try:
        entry = msgspec.json.decode(line)
        convert(entry, kind)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return entry if line.endswith(b"\n") else None
