"""Scheduling policies: one file per rule, made by name.

``make("laps_sd")`` is the rule with published or default constants, ``make("laps_sd_tuned",
scenario)`` with those tuned on the scenario's *validation* split, and ``+smartspec`` after either
adds the draft-length rule of `laps_env.sim.draft_length`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from laps_env.policies import (
    bayes_srpt,
    category_shrunk,
    fastserve,
    fcfs,
    gittins,
    laps_sd,
    las,
    oracle_srpt,
    random,
    sjf,
    sprpt,
    trail,
    vllm_ltr,
)
from laps_env.policies.base.policy import Parameter, Policy, RuleSpec
from laps_env.policies.base.rule_from_file import file_of, is_rule_file, rule_from_file
from laps_env.policies.base.traffic_model import fit_traffic_model
from laps_env.policies.networks.attention import attention_spec
from laps_env.policies.networks.flat import flat_spec
from laps_env.policies.networks.index import index_spec
from laps_env.policies.networks.model_file import CARD, WEIGHTS, arrays_for, is_model, load_model
from laps_env.policies.networks.pointer import pointer_spec
from laps_env.sim.draft_length import SMARTSPEC
from laps_env.utils.checks import is_finite
from laps_env.utils.jit import inlined, rule
from laps_env.workloads.predictors import PredictorError
from laps_env.workloads.scenarios import Scenario, get_scenario

if __name__ != "laps_env.policies":
    raise ImportError(f"{__name__}: expected import as laps_env.policies (twin classes otherwise)")

__all__ = [
    "LEARNED",
    "SPECS",
    "Parameter",
    "Policy",
    "RuleSpec",
    "digest_of",
    "inlined",
    "list_policies",
    "make",
    "rule",
    "with_settings",
]

SPECS: dict[str, RuleSpec] = {
    module.SPEC.name: module.SPEC
    for module in (
        random,
        fcfs,
        sjf,
        sprpt,
        trail,
        las,
        fastserve,
        vllm_ltr,
        laps_sd,
        category_shrunk,
        bayes_srpt,
        gittins,
        oracle_srpt,
    )
}

#: Rules from trained weights, by the kind that the model's card names.
LEARNABLE = {
    "index": index_spec,
    "pointer": pointer_spec,
    "attention": attention_spec,
    "flat": flat_spec,
}

_TUNED = "_tuned"

#: Models that the package carries, trained as docs/learned.md says.
LEARNED = ("learned_index", "learned")


def list_policies() -> list[str]:
    """Names for `make`, without the ``+smartspec`` variants."""
    names = []
    for name, spec in SPECS.items():
        names.append(name)
        if spec.parameters:
            names.append(name + _TUNED)
    return [*names, *LEARNED]


def make(
    name: str | RuleSpec,
    scenario: str | Scenario = "chat-serial-135m",
    *,
    predictor_error: PredictorError = None,
    **settings: float,
) -> Policy:
    """A policy by name.

    Args:
        name: from `list_policies`, optionally followed by ``+smartspec``; the folder of a trained
            model (`laps_env.policies.networks.model_file`); or a rule of your own, or its file
            (``rule.py:spec``).
        scenario: whose training split fits the laws that a rule needs, and whose tuned parameters
            ``_tuned`` takes (a scenario without an entry takes those tuned over all).
        predictor_error: the error that the training split's predictions have.
        **settings: parameters that override the default or tuned ones, by name.

    Raises:
        ValueError: unknown policy or parameter, listing the known ones, or a setting that is not
            finite.
    """
    scenario = get_scenario(scenario)
    if isinstance(name, RuleSpec):
        return _fill_in(name.name, name, scenario, predictor_error, settings)
    base, plus, draft_rule = str(name).partition("+")
    rule_name = base.removesuffix(_TUNED)
    if base not in list_policies() or (plus and draft_rule != SMARTSPEC):
        if isinstance(name, str) and is_rule_file(name):
            return _fill_in(name, rule_from_file(name), scenario, predictor_error, settings)
        if isinstance(name, str) and is_model(name):
            spec = load_rule(name, name, scenario.name)
            return _fill_in(name, spec, scenario, predictor_error, settings)
        raise ValueError(
            f"policy: expected one of {', '.join(list_policies())}, each with or without "
            f"+{SMARTSPEC}; got {name!r}"
        )
    if base != rule_name:
        settings = {**tuned_settings(rule_name, scenario.name), **settings}
    if base in LEARNED:
        with as_file(files("laps_env.policies") / "data" / base) as folder:
            spec = load_rule(base, str(folder), scenario.name)
    else:
        spec = SPECS[rule_name]
    policy = _fill_in(name, spec, scenario, predictor_error, settings)
    return replace(policy, draft_length=draft_rule or None)


def digest_of(name: str) -> str | None:
    """SHA-256 of what a policy is read from: a rule's own file, or a trained model's files.

    Returns:
        None for the package's own, which the digest of its code and data covers.

    Raises:
        ValueError: no such file.
    """
    if is_rule_file(name):
        paths = [file_of(name)]
    elif name.partition("+")[0] not in list_policies() and is_model(name):
        paths = [Path(name) / CARD, Path(name) / WEIGHTS]
    else:
        return None
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def load_rule(name: str, folder: str, scenario: str) -> RuleSpec:
    """The rule of a trained model.

    Args:
        name: of the rule.
        folder: of the model (`laps_env.policies.networks.model_file`).
        scenario: whose own weights are taken, where the model has some.

    Raises:
        ValueError: damaged files, or an unknown kind of model.
        OSError: a file cannot be read.
    """
    card, weights = load_model(folder)
    kind, arrays = card["kind"], arrays_for(weights, scenario)
    if kind not in LEARNABLE:
        raise ValueError(f"{folder}: kind: expected one of {list(LEARNABLE)}, got {kind!r}")
    return LEARNABLE[kind](name, arrays)


def _fill_in(
    name: str,
    spec: RuleSpec,
    scenario: Scenario,
    predictor_error: PredictorError,
    settings: dict[str, float],
) -> Policy:
    """A rule with its defaults, these settings, and the laws of the scenario that it needs."""
    values = _replaced(name, {p.name: float(p.default) for p in spec.parameters}, settings)
    params = np.array(list(values.values()), np.float64)
    if spec.fitted is not None:
        params = np.concatenate([params, spec.fitted(fit_traffic_model(scenario, predictor_error))])
    categories = scenario.requests.categories if spec.by_category else None
    return Policy(name, spec, values, params, categories=categories)


def _replaced(name: str, values: dict[str, float], settings: dict[str, float]) -> dict[str, float]:
    """The values with these in their place; none may be new or not finite."""
    unknown = set(settings) - set(values)
    if unknown:
        raise ValueError(f"{name}: expected parameters {list(values)}, got {sorted(unknown)}")
    if not all(isinstance(value, bool) or is_finite(value) for value in settings.values()):
        raise ValueError(f"{name}: expected finite parameters, got {settings}")
    return values | {key: float(value) for key, value in settings.items()}


def tuned_settings(rule_name: str, scenario_name: str) -> dict[str, float]:
    """Parameters tuned on a scenario's *validation* split, or over all scenarios where it has none."""
    by_scenario: dict[str, dict[str, float]] = _tuning_results()["settings"][rule_name]
    return by_scenario.get(scenario_name, by_scenario["all"])


@cache
def _tuning_results() -> Any:
    return json.loads(
        (files("laps_env.policies") / "data" / "tuned.json").read_text(encoding="utf-8")
    )


def with_settings(policy: Policy, **settings: float) -> Policy:
    """The same policy with some parameters replaced (its fitted constants stay).

    Raises:
        ValueError: unknown parameter, or a setting that is not finite.
    """
    values = _replaced(policy.name, policy.settings, settings)
    params = policy.params.copy()
    params[: len(values)] = list(values.values())
    return replace(policy, settings=values, params=params)
