"""Policies by name: rules by their files, trained models by their folders, tuned parameters."""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib import import_module
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from laps_env.catalog import (
    OVERALL,
    TUNED_FOR,
    list_learned,
    list_policies,
    list_rules,
    split_tuned,
    tuning_results,
)
from laps_env.policies.base.draft_by_confidence import best_confident, best_topk
from laps_env.policies.base.draft_table import VLLM, best_draft_lengths
from laps_env.policies.base.policy import Policy
from laps_env.policies.base.rule_from_file import file_of, is_rule_file, rule_from_file
from laps_env.policies.base.rule_spec import Floats, Parameter, RuleSpec
from laps_env.policies.base.traffic_file import Traffic, fit_traffic
from laps_env.policies.base.traffic_model import TrafficModel
from laps_env.policies.networks.model_file import (
    CARD,
    WEIGHTS,
    arrays_for,
    is_model,
    load_model,
)
from laps_env.sim.confidence import CONFIDENCE, Confident, confident_of
from laps_env.sim.draft_length import POLICY
from laps_env.sim.server_model import DRAFT_RULES
from laps_env.sim.topk import TOPK
from laps_env.utils.checks import is_finite
from laps_env.utils.policy_names import split_settings
from laps_env.workloads.predictors import PredictorError
from laps_env.workloads.scenarios import DEFAULT_SCENARIO, Scenario, get_scenario

_PACKAGE = "laps_env.policies"
#: Modules of `laps_env.policies.networks` by the kind that a model's card names.
NETWORKS = ("index", "joint", "pointer", "attention", "flat")

#: Draft lengths that are chosen for a scenario.
BEST_LENGTHS = {CONFIDENCE: best_confident, TOPK: best_topk, VLLM: best_draft_lengths}
#: Rules for the draft length that may follow a plus sign.
DRAFT_NAMES = (*DRAFT_RULES, *BEST_LENGTHS)


def get_rule(name: str) -> RuleSpec:
    """Rule of the package by name, compiled when it is first used."""
    spec: RuleSpec = import_module(f"{_PACKAGE}.{name}").SPEC
    return spec


def make(
    name: str | RuleSpec,
    scenario: str | Scenario = DEFAULT_SCENARIO,
    *,
    predictor_error: PredictorError = None,
    traffic: Traffic | None = None,
    **settings: float,
) -> Policy:
    """Policy by name.

    Args:
        name: Name from `list_policies`, optionally followed by ``+smartspec``, ``+sglang``,
            ``+rate``, ``+vllm`` (`laps_env.policies.base.draft_table`), ``+confidence`` or
            ``+topk`` (`laps_env.policies.base.draft_by_confidence`); the folder of a trained model
            (`laps_env.policies.networks.model_file`); or your own rule, or its file
            (``rule.py:spec``). Any of these names may end in parameters
            (``laps_sd:tolerance=0.2,queues=4``).
        scenario: Scenario whose training split fits the laws that a rule needs, and whose tuned
            parameters ``_tuned`` (for the mean latency), ``_tuned_p99`` and ``_tuned_slo`` (limits
            kept) take (one without an entry takes those tuned over all).
        predictor_error: Error that the training split's predictions have.
        traffic: Traffic whose laws and categories are taken, and not the scenario's
            (`laps_env.policies.read_traffic`).
        **settings: Parameters by name that override the default or tuned ones.

    Raises:
        ValueError: The policy or a parameter is unknown (the message lists the known ones), a
            setting is not finite or not the one in the name, or the traffic is none.
    """
    scenario = get_scenario(scenario)
    if not isinstance(traffic, Traffic | None):
        raise ValueError(f"traffic: expected a Traffic, got {traffic!r:.80}")
    policy = _without_laws(name, scenario.name, settings)
    if policy.spec.drafts and policy.draft_length is None:
        given = settings | (split_settings(name)[1] if isinstance(name, str) else {})
        policy = _with_best_draft(policy, scenario, given)
    if policy.draft_length in BEST_LENGTHS:
        policy = replace(policy, draft_length=BEST_LENGTHS[policy.draft_length](scenario))
    spec, params = policy.spec, policy.params
    if spec.fitted is not None:
        known = traffic or fit_traffic(scenario, predictor_error)
        params = np.concatenate([params, _fitted(policy.name, spec, known.laws)])
    categories = (traffic or scenario.requests).categories if spec.by_category else None
    return replace(policy, params=params, categories=categories)


def _with_best_draft(policy: Policy, scenario: Scenario, given: dict[str, float]) -> Policy:
    """A policy that decides drafts, told what is best for the scenario as a whole."""
    fixed = Confident(0.0, scenario.server.reference_draft_length)
    best = confident_of(best_confident(scenario)) or fixed
    return replace(with_settings(policy, **best._asdict() | given), draft_length=POLICY)


def _without_laws(given: str | RuleSpec, scenario: str, settings: dict[str, float]) -> Policy:
    """A policy by name with its parameters, still without what it knows of traffic."""
    if isinstance(given, RuleSpec):
        return _fill_in(given.name, given, settings)
    if not isinstance(given, str):
        raise _unknown(given)
    name, named = split_settings(given)
    settings = _agreed(given, named, settings)
    base, plus, draft_rule = name.partition("+")
    rule_name, objective = split_tuned(base)
    if base not in list_policies() or (plus and draft_rule not in DRAFT_NAMES):
        return _fill_in(given, _rule_of_others(name, scenario), settings)
    if objective is not None:
        settings = {**tuned_settings(rule_name, scenario, objective), **settings}
    if base in list_learned():
        with as_file(files(_PACKAGE) / "data" / base) as folder:
            spec = load_rule(base, str(folder), scenario)
    else:
        spec = get_rule(rule_name)
    return replace(_fill_in(given, spec, settings), draft_length=draft_rule or None)


def _agreed(name: str, named: dict[str, float], settings: dict[str, float]) -> dict[str, float]:
    """The parameters of a name and the settings beside it, which may not contradict it."""
    for parameter, value in named.items():
        if settings.get(parameter, value) != value:
            raise ValueError(
                f"{name}: {parameter}: expected the value of the name, got {settings[parameter]}"
            )
    return {**named, **settings}


def _rule_of_others(name: str, scenario: str) -> RuleSpec:
    if is_rule_file(name):
        return rule_from_file(name)
    if is_model(name):
        return load_rule(name, name, scenario)
    if name.endswith(".py"):
        raise ValueError(
            f"policy: expected the name of the RuleSpec behind the file, {name}:NAME; got {name!r}"
        )
    raise _unknown(name)


def _unknown(name: object) -> ValueError:
    return ValueError(
        f"policy: expected one of {', '.join([*list_rules(), *list_learned()])}, where tuned with "
        f"or without one of {', '.join(TUNED_FOR)}, each with or without one of "
        f"{', '.join('+' + rule for rule in DRAFT_NAMES)}; got {name!r}"
    )


def files_of(name: str) -> list[Path]:
    """Files that a policy is read from, none for the package's own.

    Raises:
        ValueError: There is no such file, or the name's parameters are none.
    """
    name, _ = split_settings(name)
    if is_rule_file(name):
        return [file_of(name)]
    if name.partition("+")[0] not in list_policies() and is_model(name):
        return [Path(name) / CARD, Path(name) / WEIGHTS]
    return []


def load_rule(name: str, folder: str, scenario: str) -> RuleSpec:
    """Rule of a trained model.

    Args:
        name: Name of the rule.
        folder: Folder of the model (`laps_env.policies.networks.model_file`).
        scenario: Scenario whose own weights are taken, where the model has some.

    Raises:
        ValueError: A file is damaged, or the kind of model is unknown.
        OSError: A file cannot be read.
    """
    card, weights = load_model(folder)
    kind = card["kind"]
    if kind not in NETWORKS:
        raise ValueError(f"{folder}: kind: expected one of {list(NETWORKS)}, got {kind!r}")
    return network_rule(kind, name, arrays_for(weights, scenario))


def network_rule(kind: str, name: str, arrays: dict[str, Any]) -> RuleSpec:
    """Rule of a network with these weights.

    Args:
        kind: Network, of `NETWORKS`.
        name: Name of the rule.
        arrays: Weights by name, as the network's module says.

    Raises:
        ValueError: The arrays are others.
    """
    spec: RuleSpec = import_module(f"{_PACKAGE}.networks.{kind}").make_spec(name, arrays)
    return spec


def _fill_in(name: str, spec: RuleSpec, settings: dict[str, float]) -> Policy:
    """A rule with its defaults and these settings."""
    values = _replaced(name, {p.name: float(p.default) for p in spec.parameters}, settings)
    _warn_of_ranges(name, spec.parameters, values)
    return Policy(name, spec, values, np.array(list(values.values()), np.float64))


def _fitted(name: str, spec: RuleSpec, laws: TrafficModel) -> Floats:
    """The constants that a rule makes of its traffic's laws."""
    assert spec.fitted is not None  # the caller asked
    try:
        constants = np.asarray(spec.fitted(laws), float)
    except Exception as error:  # whatever somebody's function raises
        raise ValueError(
            f"{name}: fitted: expected constants, got {type(error).__name__}: {error}"
        ) from error
    if constants.ndim != 1 or not np.isfinite(constants).all():
        raise ValueError(
            f"{name}: fitted: expected finite numbers [n], got {constants.shape} {constants!r:.80}"
        )
    return constants


def _replaced(name: str, values: dict[str, float], settings: dict[str, float]) -> dict[str, float]:
    """The values with these in their place; none may be new or not finite."""
    unknown = set(settings) - set(values)
    if unknown:
        raise ValueError(f"{name}: expected parameters {list(values)}, got {sorted(unknown)}")
    if not all(isinstance(value, bool) or is_finite(value) for value in settings.values()):
        raise ValueError(f"{name}: expected finite parameters, got {settings}")
    return values | {key: float(value) for key, value in settings.items()}


def _warn_of_ranges(name: str, parameters: tuple[Parameter, ...], values: dict[str, float]) -> None:
    """Say where a value is beyond those that make sense, as far as anybody has tried."""
    for p in parameters:
        if not p.low <= values[p.name] <= p.high:
            warnings.warn(
                f"{name}: {p.name}: expected {p.low:g}..{p.high:g}, the range that it is tuned in, "
                f"got {values[p.name]:g}",
                stacklevel=5,
            )


def with_settings(policy: Policy, **settings: float) -> Policy:
    """Same policy with some parameters replaced (its fitted constants stay).

    Raises:
        ValueError: A parameter is unknown, or a setting is not finite.
    """
    values = _replaced(policy.name, policy.settings, settings)
    params = policy.params.copy()
    params[: len(values)] = list(values.values())
    return replace(policy, settings=values, params=params)


def tuned_settings(
    rule_name: str, scenario_name: str, objective: str = "mean_latency"
) -> dict[str, float]:
    """Parameters tuned on a scenario's *validation* split, else those tuned over all."""
    by_scenario: dict[str, dict[str, float]] = tuning_results()["settings"][objective][rule_name]
    return by_scenario.get(scenario_name, by_scenario[OVERALL])
