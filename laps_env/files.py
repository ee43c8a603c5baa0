"""Writing files whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


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
