"""Compiled code: numba with a cache on disk that is keyed by *everything that is compiled in*.

numba's own cache notices an edit of a function's file, but not of a function that it calls from
another file, nor another value of a constant. A digest of every compiled source of this package in
the cache's path closes that hole, and lets the first run say that it compiles; your own rules have
a digest each, of their code and all that it reaches.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numba
from numba import types

from laps_env.utils.code_digest import code_digest
from laps_env.utils.modules import import_file, is_from_file

#: Packages with compiled code; each may be anywhere.
_COMPILED = ("sim", "workloads", "policies", "agents", "utils")

#: Files that are not compiled, but whose constants are compiled in, or that compile.
_COMPILED_IN = ("checks.py", "jit.py")


def _folders() -> list[Path]:
    specs = (importlib.util.find_spec(f"laps_env.{name}") for name in _COMPILED)
    return [Path(p) for spec in specs if spec for p in spec.submodule_search_locations or ()]


def _compiled_sources() -> list[bytes]:
    """In an order that does not depend on where the packages are."""
    files = (file for folder in _folders() for file in sorted(folder.rglob("*.py")))
    texts = ((file.name, file.read_bytes()) for file in files)
    return [text for name, text in texts if b"laps_env.utils.jit" in text or name in _COMPILED_IN]


def _cache_directory() -> Path:
    digest = hashlib.sha256(f"{numba.__version__} {sys.version_info[:2]}".encode())
    for text in _compiled_sources():
        digest.update(text)
    base = os.environ.get("LAPS_ENV_CACHE") or Path.home() / ".cache" / "laps_env"
    return Path(base) / digest.hexdigest()[:16]


CACHE_DIRECTORY = _cache_directory()
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
_COLD = not CACHE_DIRECTORY.exists()


def _is_ours(function: Callable[..., Any]) -> bool:
    return function.__module__.partition(".")[0] == "laps_env"


@contextmanager
def _cached(function: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Options that compile a function, while numba keeps what it compiles in a cache of ours.

    Your own rules cannot index past an array in silence: their indices are checked, which takes
    about a quarter of their speed.
    """
    before = numba.config.CACHE_DIR
    own = CACHE_DIRECTORY if _is_ours(function) else CACHE_DIRECTORY / code_digest(function)
    numba.config.CACHE_DIR = str(own)
    # what is typed into an interpreter has no file that could key the cache
    has_source = Path(function.__code__.co_filename).is_file()
    try:
        yield {**_OPTIONS, "cache": has_source, "boundscheck": not _is_ours(function)}
    finally:
        numba.config.CACHE_DIR = before


def jit(function: Callable[..., Any]) -> Any:
    """Compiled function: cached, without the interpreter lock, IEEE arithmetic, no counting.

    Compiled code here allocates nothing, and counting references to views would halve its speed.
    """
    with _cached(function) as options:
        return numba.njit(**options, nogil=True)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compiled piece of a round or of a rule: calls copy the views of an episode, inlining not."""
    with _cached(function) as options:
        return numba.njit(**options, nogil=True, forceinline=True)(function)


@cache
def announce_compilation() -> None:
    """Say once, on standard error, that this process compiles, where it found no cache."""
    if _COLD:
        print("laps_env: compiling, the first time only...", file=sys.stderr, flush=True)


_ROW = types.Array(types.float32, 1, "C")
_TABLE = types.Array(types.float32, 2, "C")
_NUMBERS = types.Array(types.float64, 1, "C")


class Compiled:
    """A function that the kernel calls through a pointer, compiled when it is first needed.

    It is a value: pickle and `copy` keep where it is defined, not what it was compiled to.

    Args:
        function: Python function, at the top level of a module or file.
        signature: Types of its arguments and of its result.
        arguments: Names of the arguments, for messages.

    Raises:
        TypeError: The function takes another number of arguments.
    """

    def __init__(self, function: Callable[..., Any], signature: Any, arguments: str) -> None:
        expected, got = len(signature.args), function.__code__.co_argcount
        if got != expected:
            name = function.__qualname__
            raise TypeError(f"{name}: expected {expected} arguments, {arguments}; got {got}")
        self.function = function
        self._signature = signature

    @cached_property
    def compiled(self) -> Any:
        """Compiled function, of a type that is the same for all of one signature."""
        announce_compilation()
        with _cached(self.function) as options:
            return numba.cfunc(self._signature, **options)(self.function)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.function.__module__}.{self.function.__qualname__})"

    def __reduce__(self) -> Any:
        module, code = self.function.__module__, self.function.__code__
        if not Path(code.co_filename).is_file():  # a notebook's: whoever unpickles needs it whole
            return type(self), (self.function,)
        return _find, (module, code.co_filename, self.function.__qualname__)


def _find(module: str, file: str, name: str) -> Any:
    """What a module, or a file that is none of this process's modules, defines."""
    known = sys.modules.get(module)
    if known is not None and not is_from_file(known) and hasattr(known, name):
        return getattr(known, name)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return getattr(import_file(Path(file)), name)


class rule(Compiled):
    """Scheduling rule: ``priority(row, server, params, memory) -> float``, lowest first.

    ``row`` is the request's row of ``observation["queue"]`` and ``server`` is
    ``observation["server"]`` (columns in `laps_env.sim.observation`), ``params`` are the rule's
    parameters, ``memory`` its private float64 cells for this request, zero when the request enters
    its slot. Calling a rule twice on the same observation must change nothing: `Policy.predict`
    calls it once per *pick*, the kernel's loop once per round, before the first pick. So a rule
    must not read what picking changes (``PICKED``, ``SELECTABLE``, ``FREE_CACHE_TOKENS``) if both
    are to agree.
    """

    def __init__(self, function: Callable[..., float]) -> None:
        signature = types.float64(_ROW, _ROW, _NUMBERS, _NUMBERS)
        super().__init__(function, signature, "row, server, params, memory")


class prepare(Compiled):
    """Look at the whole table, before its requests are scored one by one by a `rule`.

    ``look(queue, server, params)`` writes what it found behind the columns of ``server``, in the
    cells that the rule has asked for (`laps_env.policies.RuleSpec.shared`); the rule finds it
    there.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        super().__init__(function, types.void(_TABLE, _ROW, _NUMBERS), "queue, server, params")


@prepare
def no_preparation(queue: Any, server: Any, params: Any) -> None:
    """Do nothing: for rules that look at one request at a time."""
