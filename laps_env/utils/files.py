"""Files of a job: named in errors, locked while in use, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def outputs(
    *files: Path | None,
    folders: Iterable[Path | None] = (),
    inputs: Iterable[Path | str | None] = (),
    overwrite: bool = False,
) -> Iterator[None]:
    """Reserve what a job will write, before any work: checked on entry, locked until the exit.

    Args:
        files: Files that will be written; None are left out.
        folders: Folders that will be filled; None are left out.
        inputs: Files that are read for them, which none of them may replace; None are left out.
        overwrite: Whether files, and folders that are not empty, may be there already.

    Raises:
        ValueError: An output that is an input, given twice, already there, impossible to write, or
            in use by another process.
    """
    named = [path for path in files if path is not None]
    filled = [path for path in folders if path is not None]
    inputs = list(inputs)
    if len({path.resolve() for path in named + filled}) < len(named + filled):
        names = ", ".join(map(str, named + filled))
        raise ValueError(f"outputs: expected a different name for each, got {names}")
    for path in named:
        check_output(path, *inputs)
    for path in filled:
        check_output_folder(path)
    for path in [] if overwrite else named + filled:
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise ValueError(
                f"{path}: expected a name that is free, got one that exists: name another, or "
                "replace it with --overwrite"
            )
    with ExitStack() as locks:
        for path in named + filled:
            locks.enter_context(locked(path))
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on a file or folder, which need not exist yet.

    Raises:
        ValueError: Another process, or another part of this one, holds it.
    """
    place = path.absolute()
    beside = next(folder for folder in place.parents if folder.is_dir())
    name = "-".join(place.relative_to(beside).parts)
    lock = FileLock(beside / f".{name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{path}: expected one that nobody writes to, got one in use") from None
    try:
        yield
    finally:
        with suppress(OSError):  # removed while it is held, so that nobody waits for a removed file
            Path(lock.lock_file).unlink()
        lock.release()


def check_output(path: Path, *inputs: Path | str | None) -> None:
    """Check that a file can be written there, before hours are spent on its content.

    Args:
        path: File to be written.
        inputs: Files that are read for it, which it must not replace; None are left out.

    Raises:
        ValueError: No such folder, a folder that is read-only, something there that is no file, or
            an input.
    """
    if any(_is_same(path, Path(read)) for read in inputs if read is not None):
        raise ValueError(f"expected an output that is none of the inputs, got {path}")
    occupied = path.exists() and not path.is_file()
    if occupied or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"expected a file in an existing folder that is writable, got {path}")


def _is_same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (
        one.exists() and other.exists() and one.samefile(other)
    )


def check_output_folder(path: Path) -> None:
    """Check that there can be a folder with files, before hours are spent on their content.

    Raises:
        ValueError: Something there that is no folder, or one that is read-only.
    """
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"expected a folder that is writable, or can be made, got {path}")


def write_beside(path: Path, chunks: Iterable[bytes]) -> None:
    """Write `chunks` beside `path` and rename, so that a reader never sees half a file."""
    for left in path.parent.glob(f".{escape(path.name)}.*.part"):  # by a process that was killed
        left.unlink(missing_ok=True)
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
