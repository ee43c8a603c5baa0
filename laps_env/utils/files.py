"""Reading files with their names in the errors; writing them whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Parsed = TypeVar("Parsed")


def check_output(path: Path, *inputs: Path | str | None) -> None:
    """Whether a file can be written there, before hours are spent on its content.

    Args:
        path: to be written.
        inputs: files that are read for it, which it must not replace; None are left out.

    Raises:
        ValueError: no such folder, a folder that is read-only, something there that is no file, or
            an input.
    """
    if path.resolve() in {Path(read).resolve() for read in inputs if read is not None}:
        raise ValueError(f"expected an output that is none of the inputs, got {path}")
    occupied = path.exists() and not path.is_file()
    if occupied or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"expected a file in an existing folder that is writable, got {path}")


def check_output_folder(path: Path) -> None:
    """Whether there can be a folder with files, before hours are spent on their content.

    Raises:
        ValueError: something there that is no folder, or one that is read-only.
    """
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"expected a folder that is writable, or can be made, got {path}")


def read_json(path: Path, parse: Callable[[Any], Parsed]) -> Parsed:
    """What ``parse`` makes of a JSON file; its ValueErrors then name the file too.

    Raises:
        ValueError: no JSON, or what ``parse`` raises.
        OSError: the file cannot be read.
    """
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from None
    try:
        return parse(document)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None


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
