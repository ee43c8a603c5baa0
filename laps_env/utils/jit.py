"""Compiled code: numba with the cache of `laps_env.utils.compile_cache`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core.ccallback import CFunc

from laps_env.utils.compile_cache import CompileCache, announce_compilation, is_ours
from laps_env.utils.modules import import_file, is_from_file


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    """How a function is compiled.

    Your own rules cannot index past an array in silence: their indices are checked, which takes
    about a quarter of their speed.
    """
    checked = {} if is_ours(function) else {"boundscheck": True}
    return {"error_model": "numpy", "_nrt": False, **checked}


def _keep(compiled: Any, function: Callable[..., Any]) -> Any:
    """The same, kept on disk; what is typed into an interpreter has no file to key it by."""
    if Path(function.__code__.co_filename).is_file():
        compiled._cache = CompileCache(function)
    return compiled


def jit(function: Callable[..., Any]) -> Any:
    """Compiled function: cached, without the interpreter lock, IEEE arithmetic, no counting.

    Compiled code here allocates nothing, and counting references to views would halve its speed.
    """
    return _keep(numba.njit(**_options(function), nogil=True)(function), function)


def unchecked(compiled: Any, *arguments: Any) -> Any:
    """What a jitted function is compiled to for arguments of such types and memory layouts.

    A call takes a third of the time, because nobody looks at the types of its arguments: they have
    to be the same.
    """
    types_of = tuple(map(numba.typeof, arguments))
    compiled.compile(types_of)
    return compiled.overloads[types_of].entry_point


def inlined(function: Callable[..., Any]) -> Any:
    """Compiled piece of a round or of a rule: calls copy the views of an episode, inlining not."""
    compiled = numba.njit(**_options(function), nogil=True, forceinline=True)(function)
    return _keep(compiled, function)


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
        signature = self._signature.args, self._signature.return_type
        found = CFunc(self.function, signature, locals={}, options=_options(self.function))
        _keep(found, self.function).compile()
        return found

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
