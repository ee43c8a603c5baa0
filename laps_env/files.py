"""Writing files whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def check_output(path: Path) -> None:
    """Whether a file can be written there, before hours are spent on its content.

    Raises:
        ValueError: no such folder, a folder that is read-only, or something there that is no file.
    """
    occupied = path.exists() and not path.is_file()
    if occupied or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"expected a file in an existing folder that is writable, got {path}")


def write_beside(path: Path, chunks: list[bytes]) -> None:
    """Write `chunks` beside `path` and rename, so that a reader never sees half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
