"""The journal of an evaluation: a line per finished run, so that a cut-off one can go on."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from threading import Lock
from typing import Any, TextIO

from laps_env.utils.files import write_beside

Metrics = dict[str, float]


def run_key(definition: dict[str, Any]) -> str:
    """The digest of everything that defines a run; equal keys mean equal results."""
    text = json.dumps(definition, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Journal:
    """Metrics of finished runs by `run_key`, in memory and, with a path, in a file.

    Opening reads what an earlier evaluation left. A line that was damaged (the last one, where the
    process was killed in the middle of a write) is dropped, and its run is done again.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = Lock()
        self._file: TextIO | None = None
        self._runs: dict[str, Metrics] = {}
        if path is not None and path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if self._read(line)]
            if lines and not any(line.startswith(b'{"key"') for line in lines):
                raise ValueError(f"{path}: expected the journal of an evaluation, got another file")
            if kept != lines:
                write_beside(path, kept)

    def _read(self, line: bytes) -> bool:
        try:
            entry = json.loads(line)
            metrics = {str(name): float(value) for name, value in entry["metrics"].items()}
            key = str(entry["key"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return False
        if not metrics or not all(math.isfinite(value) for value in metrics.values()):
            return False
        self._runs[key] = metrics
        return line.endswith(b"\n")

    def get(self, key: str) -> Metrics | None:
        """The metrics of a finished run, or None."""
        return self._runs.get(key)

    def record(self, key: str, metrics: Metrics) -> None:
        """Keep a finished run; it is in the file when this returns. Safe to call from threads."""
        line = json.dumps({"key": key, "metrics": metrics}, allow_nan=False) + "\n"
        with self._lock:
            self._runs[key] = metrics
            if self._path is not None:
                self._file = self._file or self._path.open("a", encoding="utf-8")
                self._file.write(line)
                self._file.flush()

    def close(self) -> None:
        """Close the file, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Close and delete the file: the results are complete elsewhere."""
        self.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
