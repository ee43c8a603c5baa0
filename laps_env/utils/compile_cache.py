"""Where compiled code is kept: in a folder keyed by *everything that is compiled in*, or nowhere.

numba's own cache notices an edit of a function's file, but not of a function that it calls from
another file, nor another value of a constant. A digest of every compiled source of this package in
the cache's path closes that hole, and lets the first run say that it compiles; your own rules have
a digest each, of their code and all that it reaches. A folder that may only be read is used as it
is, where numba would turn to another one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    _CacheLocator,
    _SourceFileBackedLocatorMixin,
)

from laps_env.utils.code_digest import code_digest

#: Packages with compiled code; each may be anywhere.
_COMPILED = ("sim", "workloads", "policies", "agents", "utils")

#: Files that are not compiled, but whose constants are compiled in, or that compile.
_COMPILED_IN = ("checks.py", "jit.py")

#: Environment variable that names another folder than ``~/.cache/laps_env``.
VARIABLE = "LAPS_ENV_CACHE"


def _folders() -> list[Path]:
    specs = (importlib.util.find_spec(f"laps_env.{name}") for name in _COMPILED)
    return [Path(p) for spec in specs if spec for p in spec.submodule_search_locations or ()]


def _compiled_sources() -> list[bytes]:
    """In an order that does not depend on where the packages are."""
    files = (file for folder in _folders() for file in sorted(folder.rglob("*.py")))
    texts = ((file.name, file.read_bytes()) for file in files)
    return [text for name, text in texts if b"laps_env.utils.jit" in text or name in _COMPILED_IN]


def _base() -> Path:
    """Folder of all caches; who has no home gets that of ``HOME=/``, as containers do."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    try:
        return Path.home() / ".cache" / "laps_env"
    except RuntimeError:
        return Path("/.cache/laps_env")


def _cache_directory() -> Path:
    digest = hashlib.sha256(f"{numba.__version__} {sys.version_info[:2]}".encode())
    for text in _compiled_sources():
        digest.update(text)
    return _base() / digest.hexdigest()[:16]


def _is_readable(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:  # of somebody else
        return False


CACHE_DIRECTORY = _cache_directory()
_COLD = not _is_readable(CACHE_DIRECTORY)


def is_ours(function: Callable[..., Any]) -> bool:
    """Whether this package defines a function."""
    return function.__module__.partition(".")[0] == "laps_env"


@cache
def announce_compilation() -> None:
    """Say once, on standard error, that this process compiles, where it found no cache."""
    if _COLD:
        print("laps_env: compiling, the first time only...", file=sys.stderr, flush=True)


@cache
def _announce_unkept() -> None:
    print(
        f"laps_env: expected a folder that keeps compiled code, got {_base()}, which cannot be "
        f"written: what is not in it is compiled by every process; {VARIABLE} names another",
        file=sys.stderr,
        flush=True,
    )


class _Locator(_SourceFileBackedLocatorMixin, _CacheLocator):  # type: ignore[misc] # untyped
    """Place of a function's files; unlike numba's own, it need not be writable."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file = file
        self._lineno = function.__code__.co_firstlineno
        ours = is_ours(function)
        folder = CACHE_DIRECTORY if ours else CACHE_DIRECTORY / code_digest(function)
        self._path = folder / self.get_suitable_cache_subpath(file)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls(py_func, py_file)

    def get_cache_path(self) -> str:
        return str(self._path)


class _Files(CompileResultCacheImpl):  # type: ignore[misc] # untyped
    _locator_classes = (_Locator,)


class CompileCache(FunctionCache):  # type: ignore[misc] # untyped
    """Cache of a function's compiled code, of which no file can end a run.

    What cannot be read is compiled again and written anew; what cannot be written is said once.
    """

    _impl_class = _Files

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Compiled function of this signature, or None."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a pickle that is cut short, or none, can raise anything
            self._forget()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function, where the folder can be written."""
        try:
            super().save_overload(sig, data)
        except OSError:
            _announce_unkept()

    def _forget(self) -> None:
        try:
            self.flush()
        except OSError:  # the folder may only be read
            return
