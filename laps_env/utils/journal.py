"""The journal of a long job: what is finished, so that a job that was cut off can go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from laps_env.utils.files import write_beside


class LineJournal:
    """Finished parts of a job, a JSON line each, under a line that says what job it is.

    A last line that was cut in the middle, where the process was killed, is dropped.

    Args:
        path: opened where it exists, else begun.
        job: whatever the parts depend on; a journal of another job is refused.

    Attributes:
        entries: what was added, by this process and by earlier ones.

    Raises:
        ValueError: the file is the journal of another job.
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        self.path = path
        head = (json.dumps(job) + "\n").encode()
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if whole and whole[0] != head:
            raise ValueError(
                f"{path}: expected a journal of {head.decode().strip()}, got one of "
                f"{whole[0].decode(errors='replace').strip()}; remove it to start anew"
            )
        if not whole or whole != lines:
            write_beside(path, whole or [head])
        self.entries: list[Any] = [json.loads(line) for line in whole[1:]]

    def add(self, entry: Any) -> None:
        """Keep a finished part; it is in the file when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self.entries.append(entry)

    def remove(self) -> None:
        """Delete the file: the results are complete elsewhere."""
        self.path.unlink()
