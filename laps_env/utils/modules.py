"""Python files of others as modules, run once, under the name of the file."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from threading import Lock
from types import ModuleType

#: Threads make policies at the same time; a module is run once.
_IMPORTING = Lock()

#: Attribute of a module that was made here: the file and the digest of its text.
_DIGEST = "_laps_env_digest"


def import_file(path: Path) -> ModuleType:
    """Module that a file defines; the file is run, as any import is.

    It has the file's own name, by which pickle and numba's cache on disk know it too. An edited
    file is run again.

    Raises:
        ValueError: Another module has that name, or the file cannot be imported; the message names
            the file and the line.
    """
    with _IMPORTING:
        return _import_alone(path.resolve())


def is_from_file(module: ModuleType) -> bool:
    """Whether `import_file` made a module."""
    return _DIGEST in vars(module)


def _import_alone(path: Path) -> ModuleType:
    if _is_taken(path):
        raise ValueError(f"{path}: expected a file that is named like no other module")
    known = sys.modules.get(path.stem)
    digest = (str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    if known is not None and vars(known)[_DIGEST] == digest:
        return known
    wanted = importlib.util.spec_from_file_location(path.stem, path)
    assert wanted is not None  # its ending is .py
    assert wanted.loader is not None
    module = importlib.util.module_from_spec(wanted)
    sys.modules[path.stem] = module
    try:
        wanted.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[path.stem]
        if isinstance(error, Exception | SystemExit):
            raise ValueError(_why_not(path, error)) from error
        raise
    vars(module)[_DIGEST] = digest
    return module


def _is_taken(path: Path) -> bool:
    """Whether another module has the name of this file."""
    known = sys.modules.get(path.stem)
    if known is not None:
        return not is_from_file(known)
    found = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
    return found is not None and found.origin != str(path)


def _why_not(path: Path, error: BaseException) -> str:
    """What keeps a file from being imported, with the line where that began."""
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
    if isinstance(error, SyntaxError):
        line = error.lineno
    place = str(path) if line is None else f"{path}: line {line}"
    return f"{place}: expected a file that can be imported, got {type(error).__name__}: {error}"
