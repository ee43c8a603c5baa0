"""`jit`: numba with an on-disk cache that is keyed by the *sources of all compiled code*.

numba's own cache notices an edit of a function's file, but not of a function that it calls from
another file; a digest of every compiled source in the cache's path closes that hole, and lets the
first run say that it compiles.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import types

#: Packages with compiled code, or with constants that it compiles in; each may be anywhere.
_COMPILED = ("sim", "workloads", "policies", "agents", "utils")


def _compiled_sources() -> list[Path]:
    """In an order that does not depend on where the packages are."""
    specs = (importlib.util.find_spec(f"laps_env.{name}") for name in _COMPILED)
    folders = (Path(p) for s in specs if s for p in s.submodule_search_locations or ())
    return [file for folder in folders for file in sorted(folder.rglob("*.py"))]


def _cache_directory() -> Path:
    digest = hashlib.sha256(f"{numba.__version__} {sys.version_info[:2]}".encode())
    for file in _compiled_sources():
        digest.update(file.read_bytes())
    base = os.environ.get("LAPS_ENV_CACHE") or Path.home() / ".cache" / "laps_env"
    return Path(base) / digest.hexdigest()[:16]


CACHE_DIRECTORY = _cache_directory()
_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "_nrt": False}
_COLD = not CACHE_DIRECTORY.exists()


@contextmanager
def _own_cache() -> Any:
    """numba chooses a function's cache when it is decorated: point it to ours meanwhile."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(CACHE_DIRECTORY)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def jit(function: Callable[..., Any]) -> Any:
    """Compile: cached, without the interpreter lock, IEEE arithmetic, no reference counting.

    Compiled code here allocates nothing, and counting references to views would halve its speed.
    """
    with _own_cache():
        return numba.njit(**_OPTIONS, nogil=True)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """`jit` for a piece of the round: calls copy the views of an episode, inlining does not."""
    options = {**_OPTIONS, "cache": _has_source(function)}
    with _own_cache():
        return numba.njit(**options, nogil=True, forceinline=True)(function)


def _has_source(function: Callable[..., Any]) -> bool:
    """Whether a file can key the cache: what is typed into an interpreter has none."""
    return Path(function.__code__.co_filename).is_file()


@cache
def announce_compilation() -> None:
    """Say once, on standard error, that this process compiles, where it found no cache."""
    if _COLD:
        print("laps_env: compiling, the first time only...", file=sys.stderr, flush=True)


_ROW = types.Array(types.float32, 1, "C")
_NUMBERS = types.Array(types.float64, 1, "C")
_RULE_SIGNATURE = types.float64(_ROW, _ROW, _NUMBERS, _NUMBERS)

#: The type of a rule inside the kernel: one compiled kernel calls any rule through a pointer.
RULE = types.FunctionType(_RULE_SIGNATURE)


def rule(function: Callable[..., float]) -> Any:
    """Compile a scheduling rule: ``priority(row, server, params, memory) -> float``, lowest first.

    ``row`` is the request's row of ``observation["queue"]`` and ``server`` is
    ``observation["server"]`` (columns in `laps_env.sim.observation`), ``params`` are the rule's
    parameters, ``memory`` its private float64 cells for this request, zero when the request enters
    its slot.
    Calling a rule twice on the same observation must change nothing: `Policy.predict` calls it once
    per *pick*, the kernel's loop once per round, before the first pick. So a rule must not read
    what picking changes (``PICKED``, ``SELECTABLE``, ``FREE_CACHE_TOKENS``) if both are to agree.
    """
    announce_compilation()  # a rule compiles here and now; the kernel when it is first called
    options = {**_OPTIONS, "cache": _has_source(function)}
    with _own_cache():
        return numba.cfunc(_RULE_SIGNATURE, **options)(function)


_TABLE = types.Array(types.float32, 2, "C")
_SURVEY_SIGNATURE = types.void(_TABLE, _ROW, _NUMBERS)


def prepare(function: Callable[..., None]) -> Any:
    """Compile a look at the whole table, before its requests are scored one by one by a `rule`.

    ``look(queue, server, params)`` writes what it found behind the columns of ``server``, in the
    cells that the rule has asked for (`laps_env.policies.RuleSpec.context`); the rule finds it
    there.
    """
    announce_compilation()
    options = {**_OPTIONS, "cache": _has_source(function)}
    with _own_cache():
        return numba.cfunc(_SURVEY_SIGNATURE, **options)(function)


@prepare
def no_preparation(queue: Any, server: Any, params: Any) -> None:
    """For rules that look at one request at a time."""
