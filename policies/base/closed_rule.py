"""Rule files that can do nothing but define a rule, for somebody who did not read them.

A search that writes rules (ADRS, arXiv 2510.06189) keeps what scores well, and what scores best is
to cheat. So before such a file is imported its syntax is checked: it may compute, and nothing else.
Numba then compiles its functions, with checked indices.
"""

from __future__ import annotations

import ast
import builtins
import math
from collections.abc import Iterator
from pathlib import Path

from laps_env import policies

#: What a file may say. No class, lambda, comprehension, with, try, global, import of other names.
_SYNTAX = (
    *(ast.Module, ast.Expr, ast.Constant, ast.Name, ast.Tuple, ast.List, ast.Subscript, ast.Slice),
    *(ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Call, ast.keyword, ast.Attribute),
    *(ast.Assign, ast.AnnAssign, ast.AugAssign, ast.If, ast.For, ast.While, ast.Break, ast.Pass),
    *(ast.Continue, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Compare, ast.alias),
    *(ast.Import, ast.ImportFrom, ast.expr_context, ast.boolop, ast.operator, ast.unaryop),
    ast.cmpop,
)
_BUILTINS = {"abs", "bool", "float", "int", "len", "max", "min", "range", "round"}
_NUMPY = {
    *("abs", "arange", "array", "bool_", "ceil", "clip", "cos", "e", "empty", "exp", "expm1"),
    *("float32", "float64", "floor", "inf", "int32", "int64", "isfinite", "isinf", "isnan"),
    *("log", "log10", "log1p", "log2", "maximum", "mean", "minimum", "nan", "ones", "pi"),
    *("power", "sign", "sin", "sqrt", "sum", "tanh", "zeros"),
}
_MATH = {name for name in vars(math) if not name.startswith("_")}
_DEFINING = {"Parameter", "RuleSpec", "inlined", "prepare", "rule"}
_COLUMNS = {name for name in policies.__all__ if name.isupper()}
_IMPORTS = {
    "__future__": {"annotations"},
    "laps_env.policies": _DEFINING | _COLUMNS,
    "math": _MATH,
    "typing": {"Any"},
}
_MODULES = {"numpy": _NUMPY, "math": _MATH}
#: Arguments that a function may write into, by its decorator.
_WRITABLE = {"rule": 3, "prepare": 1}


def check_closed(path: Path) -> None:
    """Whether a rule's file can do nothing but define a rule.

    It may import numpy and math and take from `laps_env.policies` what rules are made of; assign
    names, and define functions that compute. It may write into ``memory``, and what is prepared
    behind the columns of ``server``. It may not set ``fitted``, a function that is not compiled,
    nor ``clairvoyant``.

    Raises:
        ValueError: It does something else; the message has the line.
        OSError: The file cannot be read.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected a rule's file, got {error}") from None
    modules = dict(_modules(tree))
    known = _BUILTINS | _bound(tree)
    for node in ast.walk(tree):
        found = _fault(node, modules, known)
        if found is not None:
            line = getattr(node, "lineno", 0)
            raise ValueError(
                f"{path}, line {line}: expected a rule that only computes, got {found}"
            )


def _modules(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """Names of imported modules with what may be taken from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name, _MODULES.get(alias.name, set())


def _bound(tree: ast.Module) -> set[str]:
    """Names that the file itself gives something to; what rules are made of keeps its names."""
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.FunctionDef):
            bound.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {alias.asname or alias.name for alias in node.names}
    return bound


def _fault(node: ast.AST, modules: dict[str, set[str]], known: set[str]) -> str | None:
    """What a node does that it may not, in words."""
    if not isinstance(node, _SYNTAX):
        return type(node).__name__
    if isinstance(node, ast.Import):
        others = (a.name for a in node.names if a.name not in _MODULES or a.asname in _DEFINING)
        return next((f"import {name}" for name in others), None)
    if isinstance(node, ast.ImportFrom):
        allowed = _IMPORTS.get(node.module or "", set()) if node.level == 0 else set()
        names = [alias.name for alias in node.names if alias.name not in allowed or alias.asname]
        return f"import of {names[0]} from {node.module}" if names else None
    if isinstance(node, ast.Name):
        hides = node.id in _DEFINING and isinstance(node.ctx, ast.Store)
        return None if _is_plain(node.id, known) and not hides else f"the name {node.id}"
    if isinstance(node, ast.arg) and node.arg in _DEFINING:
        return f"the name {node.arg}"
    if isinstance(node, ast.Attribute):
        return _fault_of_attribute(node, modules)
    if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name | ast.Attribute):
        return "a call of something without a name"
    if isinstance(node, ast.keyword) and node.arg in (None, "fitted", "clairvoyant"):
        return f"the argument {node.arg or '**'}"
    if isinstance(node, ast.FunctionDef):
        return _fault_of_function(node)
    return None


def _is_plain(name: str, known: set[str]) -> bool:
    """Whether a name is the file's own, or harmless, and hides no builtin."""
    own = name in known and not name.startswith("__")
    return own and (name in _BUILTINS or not hasattr(builtins, name))


def _fault_of_attribute(node: ast.Attribute, modules: dict[str, set[str]]) -> str | None:
    root = node.value.id if isinstance(node.value, ast.Name) else None
    fine = node.attr in modules.get(root or "", {"shape", "size"})
    return None if fine and isinstance(node.ctx, ast.Load) else f"the attribute {node.attr}"


def _fault_of_function(node: ast.FunctionDef) -> str | None:
    if node.name in _DEFINING:
        return f"the name {node.name}"
    decorators = [d.id if isinstance(d, ast.Name) else "?" for d in node.decorator_list]
    if len(decorators) != 1 or decorators[0] not in ("rule", "prepare", "inlined"):
        return f"the function {node.name} without one decorator: rule, prepare or inlined"
    place, arguments = _WRITABLE.get(decorators[0]), [a.arg for a in node.args.args]
    own = arguments[place] if place is not None and place < len(arguments) else None
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef) and inner is not node:
            return f"the function {inner.name} inside another"
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store) and inner.id == own:
            return f"another value for {own}"  # which would let it write there
        if isinstance(inner, ast.Subscript) and isinstance(inner.ctx, ast.Store):
            base = inner.value.id if isinstance(inner.value, ast.Name) else "?"
            if base != own:
                return f"a change of {base}"
    return None
