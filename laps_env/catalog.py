"""What the package carries, by name, from its data and file names alone: nothing is compiled."""

from __future__ import annotations

import ast
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TUNED = "_tuned"


def list_scenarios() -> list[str]:
    """Names of the scenarios that the package carries."""
    return list(scenario_entries())


@cache
def scenario_entries() -> dict[str, dict[str, Any]]:
    """Definition of each scenario, by name, as `docs/scenarios.md` documents it."""
    path = Path(__file__).parent / "data" / "scenarios.json"
    entries: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["scenarios"]
    return entries


@cache
def list_rules() -> tuple[str, ...]:
    """Names of the scheduling rules, one per file of ``policies/`` that has a public name."""
    files = _policies().glob("*.py")
    return tuple(sorted(file.stem for file in files if not file.stem.startswith("_")))


@cache
def list_learned() -> tuple[str, ...]:
    """Names of the trained models that the package carries."""
    return tuple(
        sorted(folder.name for folder in (_policies() / "data").iterdir() if folder.is_dir())
    )


def list_policies() -> list[str]:
    """Names for `laps_env.policies.make`, without the ``+smartspec`` variants."""
    tuned = tuning_results()["settings"]
    rules = [[name, name + TUNED] if name in tuned else [name] for name in list_rules()]
    return [*(name for names in rules for name in names), *list_learned()]


@cache
def tuning_results() -> Any:
    """Content of `tuned_file`: settings and scores by rule and scenario."""
    return json.loads(tuned_file().read_text(encoding="utf-8"))


def tuned_file() -> Path:
    """File of the parameters that the policies named ``_tuned`` take."""
    return _policies() / "data" / "tuned.json"


def default_policies() -> tuple[str, ...]:
    """Each rule once, tuned where it can be; the learned; LAPS-SD untuned and with SmartSpec."""
    known = list_policies()
    rules = (name + TUNED if name + TUNED in known else name for name in list_rules())
    return (*rules, *list_learned(), "laps_sd", "laps_sd_tuned+smartspec")


def describe_rule(name: str) -> str:
    """First line of the documentation of a rule's file."""
    source = (_policies() / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


@cache
def _policies() -> Path:
    """The folder of ``laps_env.policies``, which is not imported for it."""
    found = find_spec("laps_env.policies")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(next(iter(found.submodule_search_locations)))
