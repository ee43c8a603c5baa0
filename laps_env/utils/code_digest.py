"""Digests of what decides results: values, and functions with all that they reach.

Of a function, comments, docstrings, annotations and layout do not count; the values of constants
and the code of helpers do, wherever they are defined. Of a dataclass, the fields count by which it
is compared.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

#: Python 3.11 counts the depth of a syntax tree once for all threads: two that parse at a time
#: raise SystemError.
_PARSING = threading.Lock()


def code_digest(*parts: object) -> str:
    """Sixteen hexadecimal digits of functions, numbers, texts, arrays, and containers of such."""
    return hashlib.sha256("\n".join(_lines(parts, set())).encode()).hexdigest()[:16]


def _lines(value: Any, seen: set[int]) -> Iterator[str]:
    """Text that is the same for values that decide the same."""
    function = _python_function(value)
    if function is not None:
        if id(function) not in seen:
            seen.add(id(function))
            yield _source(function)
            for name, reached in sorted(_reached(function).items()):
                yield f"{name}:"
                yield from _lines(reached, seen)
    elif isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        yield f"{value.dtype} {value.shape} {digest}"
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _lines(item, seen)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{key!r}:"
            yield from _lines(item, seen)
    elif isinstance(value, ModuleType):
        yield value.__name__
    elif isinstance(value, int | float | complex | str | bytes | None):
        yield repr(value)
    elif is_dataclass(value) and not isinstance(value, type):
        deciding = (field.name for field in fields(value) if field.compare)
        yield from _lines([getattr(value, name) for name in deciding], seen)
    else:
        yield getattr(value, "__qualname__", type(value).__qualname__)


def _python_function(value: Any) -> FunctionType | None:
    """Function behind a compiled one or a rule; None for what is none, or of other packages."""
    function = getattr(value, "py_func", None) or getattr(value, "function", value)
    if not isinstance(function, FunctionType):
        return None
    installed = function.__module__.partition(".")[0] in ("numba", "numpy", "math")
    return None if installed else function


def _source(function: FunctionType) -> str:
    """Code without comments, docstrings and annotations; bytecode where there is no source."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
        with _PARSING:
            tree = ast.parse(source)
    except (OSError, SyntaxError, TypeError):
        code = function.__code__
        return f"{code.co_code.hex()} {code.co_consts!r}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        elif isinstance(node, ast.arg):
            node.annotation = None
    return ast.unparse(tree)


def _reached(function: Callable[..., Any]) -> dict[str, Any]:
    """Globals and closed-over variables that a function names, with their values."""
    assert isinstance(function, FunctionType)
    names = set(_names(function.__code__))
    reached = {name: function.__globals__[name] for name in names if name in function.__globals__}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return reached | {name: cell.cell_contents for name, cell in cells}


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
