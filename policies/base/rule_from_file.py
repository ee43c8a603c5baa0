"""Rules of one's own, by their file: ``my_rule.py:spec``. The file is run, as any import is."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from threading import Lock
from types import ModuleType

from laps_env.policies.base.policy import RuleSpec

#: Threads make policies at the same time; a module is run once.
_IMPORTING = Lock()

_NAME = re.compile(r"(?P<path>.+\.py):(?P<attribute>[A-Za-z_]\w*)")


def is_rule_file(name: str) -> bool:
    """Whether this names a rule by its file."""
    return _NAME.fullmatch(name) is not None


def file_of(name: str) -> Path:
    """The file with the rule.

    Raises:
        ValueError: no such file.
    """
    found = _NAME.fullmatch(name)
    assert found is not None  # is_rule_file was asked
    path = Path(found["path"])
    if not path.is_file():
        raise ValueError(f"policy: expected a file with a rule, got {path}, which is none")
    return path.resolve()


def rule_from_file(name: str) -> RuleSpec:
    """The rule that a file defines.

    Raises:
        ValueError: no such file, or it does not define a `RuleSpec` of this name.
    """
    module = _import(file_of(name))
    spec = getattr(module, name.rpartition(":")[2], None)
    if not isinstance(spec, RuleSpec):
        raise ValueError(f"{name}: expected a RuleSpec of that name in the file, got {spec!r}")
    return spec


def _import(path: Path) -> ModuleType:
    """The file as a module of its own name, by which numba's cache on disk knows it too."""
    with _IMPORTING:
        return _import_alone(path)


def _import_alone(path: Path) -> ModuleType:
    if _is_taken(path):
        raise ValueError(f"{path}: expected a file that is named like no other module")
    known = sys.modules.get(path.stem)
    digest = (str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    if known is not None and vars(known)["_digest"] == digest:
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
    vars(module)["_digest"] = digest
    return module


def _is_taken(path: Path) -> bool:
    """Whether another module has the name of this file."""
    known = sys.modules.get(path.stem)
    if known is not None:
        return "_digest" not in vars(known)
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
