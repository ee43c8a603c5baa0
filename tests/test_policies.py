"""Policies by name: their settings, the inputs that they take, those that they refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from observed import observe

from laps_env import policies
from laps_env.catalog import tuning_results
from laps_env.evaluation.episodes import serve
from laps_env.policies import Policy
from laps_env.policies._registry import get_rule, tuned_settings
from laps_env.sim.observation import CATEGORY, GENERATED_TOKENS, PREDICTED_TOKENS, ROUNDS
from laps_env.workloads.scenarios import get_scenario, list_scenarios


@pytest.mark.parametrize(
    ("objective", "rule_name"),
    [(o, rule) for o, rules in tuning_results()["settings"].items() for rule in rules],
)
def test_every_scenario_has_tuned_settings_within_the_ranges(
    objective: str, rule_name: str
) -> None:
    results = tuning_results()
    by_scenario = results["settings"][objective][rule_name]
    limited = objective == "slo_attainment"
    tuned = [name for name in list_scenarios() if not limited or get_scenario(name).limits]
    assert set(by_scenario) == {*tuned, "all"}
    assert set(by_scenario) <= set(results["trials"][rule_name])
    spec = get_rule(rule_name)
    for settings in by_scenario.values():
        assert list(settings) == [p.name for p in spec.parameters]
        for p in spec.parameters:
            assert p.low <= settings[p.name] <= p.high
            assert not p.integer or settings[p.name] == int(settings[p.name])
    for default, tuned in results["scores"][objective][rule_name].values():
        assert tuned <= default  # the default is one of the settings tried
    for p in spec.parameters:
        assert p.low <= p.default <= p.high


def test_a_scenario_that_was_not_tuned_takes_the_settings_for_all() -> None:
    mine = replace(get_scenario("chat-serial-8b"), name="mine")
    settings = policies.make("laps_sd_tuned", mine).settings
    assert settings == tuned_settings("laps_sd", "all")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sjrf", {}, "policy: expected one of bayes_running, bayes_srpt.*got 'sjrf'"),
        ("fcfs_tuned", {}, "policy: expected one of"),
        ("fcfs+eagle", {}, r"\+vllm; got 'fcfs\+eagle'"),
        ("las", {"quantum": 1.0}, r"las: expected parameters \['queues', .*got \['quantum'\]"),
        *(
            ("las", {"growth": growth}, "las: expected finite parameters, got")
            for growth in (math.nan, math.inf, None, "2", 10**400)
        ),
        (None, {}, "policy: expected one of .*got None"),
        (3, {}, "policy: expected one of .*got 3"),
    ],
)
def test_unknown_policies_and_parameters(name: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policies.make(name, **settings)


def test_other_settings_keep_the_fitted_constants() -> None:
    policy = policies.make("category_shrunk")
    other = policies.with_settings(policy, weight=40.0)
    assert other.params[:2].tolist() == [0.0, 40.0]
    np.testing.assert_array_equal(other.params[2:], policy.params[2:])
    with pytest.raises(ValueError, match=r"expected parameters .*got \['wait'\]"):
        policies.with_settings(policy, wait=1.0)


@pytest.mark.parametrize("name", ["category_shrunk", "bayes_srpt", "gittins"])
def test_a_rule_serves_only_the_categories_that_it_was_fitted_on(name: str) -> None:
    mixed = get_scenario("mixed-serial-8b")
    workload = mixed.workload(load=0.9, num_requests=20)
    policy = policies.make(name, "chat-serial-8b")
    with pytest.raises(ValueError, match=r"categories \('chat',\), got \('chat', 'code'"):
        serve(policy, workload, mixed)
    with pytest.raises(ValueError, match=r"categories 0..0 \(chat\), got 2"):
        policy.predict(observe([{CATEGORY: 2}]))


@pytest.mark.parametrize("policy", [policies.make(name) for name in ("laps_sd", "gittins")])
def test_predict_takes_what_holds_the_numbers_and_refuses_other_shapes(policy: Policy) -> None:
    good = observe([{PREDICTED_TOKENS: 9}, {PREDICTED_TOKENS: 4}, {PREDICTED_TOKENS: 6}])
    queue, server = good["queue"], good["server"]
    action, state = policy.predict(good)
    for other in (
        {"queue": queue.astype(float), "server": server.astype(float)},
        {"queue": np.asfortranarray(queue), "server": np.repeat(server, 2)[::2]},
        {"queue": queue.tolist(), "server": server.tolist()},
    ):
        assert policy.predict(other)[0] == action
    assert policy.predict({"queue": 0 * queue, "server": server})[0] == 3  # nobody: start the round
    for bad in (
        {"queue": queue[:, :5], "server": server},
        {"queue": queue, "server": server[:2]},
        {"queue": queue[0], "server": server},
        {"queue": np.stack([queue] * 3), "server": server},
        {"queue": np.stack([queue] * 3), "server": server[None]},
    ):
        with pytest.raises(
            ValueError, match=r"expected queue \[\(E,\) N, 24\] and server .*got \("
        ):
            policy.predict(bad)
    for nothing in ({"queue": queue}, queue, None):
        with pytest.raises(ValueError, match="expected a dict with queue and server, got"):
            policy.predict(nothing)  # type: ignore[arg-type]
    for shape in ((3, 2), (1, 2, state.shape[2]), (2, *state.shape[1:]), (*state.shape[:2], 9)):
        with pytest.raises(ValueError, match=r"state: expected .*\(1, 3, \d\), got \("):
            policy.predict(good, np.zeros(shape))
    with pytest.raises(ValueError, match=r"episode_start: expected \(1,\), got \(2,\)"):
        policy.predict(good, state, np.ones(2, bool))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 1e30, -1e30])
@pytest.mark.parametrize("column", [CATEGORY, GENERATED_TOKENS, PREDICTED_TOKENS, ROUNDS])
def test_no_observed_number_sends_a_rule_out_of_its_tables(column: int, value: float) -> None:
    """Compiled code does not look: NUMBA_BOUNDSCHECK=1 does, and this must pass under it too."""
    policy = policies.make("gittins")
    bad = observe([{PREDICTED_TOKENS: 50, GENERATED_TOKENS: 3, column: value}])
    if column == CATEGORY:
        with pytest.raises(ValueError, match=r"gittins: expected categories 0\.\.3"):
            policy.predict(bad)
    elif not np.isfinite(value) or (column == PREDICTED_TOKENS and value < 0):
        with pytest.raises(ValueError, match="expected a finite priority"):
            policy.predict(bad)
    else:
        assert policy.predict(bad)[0] in (0, 1)
