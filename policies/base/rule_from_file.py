"""Your own rules, by their file: ``my_rule.py:spec``. The file is run, as any import is."""

from __future__ import annotations

import re
from pathlib import Path

from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.utils.modules import import_file

_NAME = re.compile(r"(?P<path>.+\.py):(?P<attribute>[A-Za-z_]\w*)")


def is_rule_file(name: str) -> bool:
    """Whether a policy's name is a rule's file."""
    return _NAME.fullmatch(name) is not None


def file_of(name: str) -> Path:
    """File with the rule.

    Raises:
        ValueError: There is no such file.
    """
    found = _NAME.fullmatch(name)
    assert found is not None  # is_rule_file was asked
    path = Path(found["path"])
    if not path.is_file():
        raise ValueError(f"policy: expected a file with a rule, got {path}, which is none")
    return path.resolve()


def rule_from_file(name: str) -> RuleSpec:
    """Rule that a file defines.

    Raises:
        ValueError: There is no such file, it cannot be imported, it does not define a `RuleSpec` of
            this name, or the rule does not compile.
    """
    module = import_file(file_of(name))
    spec = getattr(module, name.rpartition(":")[2], None)
    if not isinstance(spec, RuleSpec):
        raise ValueError(f"{name}: expected a RuleSpec of that name in the file, got {spec!r}")
    try:
        _ = spec.rule.compiled, spec.prepare.compiled
    except Exception as error:  # the compiler's errors have no common class
        raise ValueError(f"{name}: expected a rule that compiles, got {error}") from error
    return spec
