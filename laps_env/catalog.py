"""What the package carries, by name, from its data and file names alone: nothing is compiled."""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from laps_env.utils.checks import check_one_of

#: End of a policy's name with tuned parameters, and the objective that they were tuned for.
TUNED_FOR = {
    "_tuned": "mean_latency",
    "_tuned_p99": "p99_latency",
    "_tuned_slo": "slo_attainment",
}
#: Stands for a scenario among the tuned parameters: those that are best on average over all.
OVERALL = "all"

_SCENARIOS = Path(__file__).parent / "data" / "scenarios"


def list_scenarios() -> list[str]:
    """Names of the scenarios that the package carries."""
    return list(scenario_entries())


@cache
def scenario_entries() -> dict[str, dict[str, Any]]:
    """Definition of each scenario, by name and family, as `docs/scenarios.md` documents it."""
    names = (file.stem for file in _SCENARIOS.glob("*.toml"))
    ordered = sorted(names, key=lambda name: (name.split("-")[-1], name))
    return {name: tomllib.loads(scenario_path(name).read_text("utf-8")) for name in ordered}


def scenario_path(name: str) -> Path:
    """File of a scenario of the package."""
    return _SCENARIOS / f"{name}.toml"


def is_scenario_file(scenario: str) -> bool:
    """Whether this is the path of a scenario's file, and not a name."""
    return isinstance(scenario, str) and scenario.endswith(".toml")


def check_scenarios(name: str, scenarios: Iterable[str]) -> None:
    """Check names and paths of scenarios without reading them.

    Raises:
        ValueError: An unknown name, or a path at which no file is.
    """
    for scenario in scenarios:
        if not is_scenario_file(scenario):
            check_one_of(name, scenario, list_scenarios())
        elif not Path(scenario).is_file():
            raise ValueError(f"{name}: expected a file, got {scenario}, which is none")


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
    """Names for `laps_env.policies.make`, without draft-length rules."""
    rules = [[name, *_tuned_names(name)] for name in list_rules()]
    return [*(name for names in rules for name in names), *list_learned()]


def _tuned_names(rule: str) -> list[str]:
    settings = tuning_results()["settings"]
    return [
        rule + end for end, objective in TUNED_FOR.items() if rule in settings.get(objective, {})
    ]


def split_tuned(name: str) -> tuple[str, str | None]:
    """The rule behind a name, and the objective that its parameters are tuned for, if any."""
    for end, objective in TUNED_FOR.items():
        if name.endswith(end):
            return name.removesuffix(end), objective
    return name, None


@cache
def tuning_results() -> Any:
    """Content of `tuned_file`: settings and scores by objective, rule and scenario."""
    return json.loads(tuned_file().read_text(encoding="utf-8"))


def tuned_file() -> Path:
    """File of the parameters that the policies named ``_tuned...`` take."""
    return _policies() / "data" / "tuned.json"


def default_policies() -> tuple[str, ...]:
    """Rules tuned for the mean and for p99, or as they are; the learned; variants of interest."""
    tuned = [_tuned_names(rule) or [rule] for rule in list_rules()]
    return (
        *(name for names in tuned for name in names if split_tuned(name)[1] != "slo_attainment"),
        *list_learned(),
        *("boost", "laps_sd", "uniboost"),
        *(f"laps_sd_tuned+{rule}" for rule in ("smartspec", "sglang", "rate", "vllm")),
        *(f"laps_sd_tuned+{rule}" for rule in ("topk", "confidence")),
        "gittins_running_tuned+confidence",
    )


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
