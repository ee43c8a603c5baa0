"""Laws that follow the traffic: what finishes is counted as worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from observed import Row, observe
from test_rule_orders import LAWS, with_laws

from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.policies import Policy
from laps_env.policies.base import running_law
from laps_env.policies.base.running_law import CATEGORIES, first_laws
from laps_env.sim.observation import (
    ARRIVAL_NUMBER,
    CATEGORY,
    GENERATED_TOKENS,
    PREDICTED_TOKENS,
    ROUNDS,
    SERVER_COLUMNS,
)
from laps_env.workloads.scenarios import get_scenario

#: The first law lies behind the columns and a mark.
FIRST = len(SERVER_COLUMNS) + 1


def followed(policy: Policy, tables: list[Row]) -> np.ndarray:
    """Laws of two categories, [2, 6], after these tables of one request, one after the other."""
    cells, size = policy._server_cells(1), running_law.LAWS
    for row in tables:
        observation = observe([row])
        cells[: len(SERVER_COLUMNS)] = observation["server"]
        policy.spec.prepare.function(observation["queue"], cells, policy.params)
    return cells[FIRST : FIRST + 2 * size].reshape(2, size)[:, [0, 1, 2, 3, -2, -1]]


@pytest.mark.parametrize("name", ["gittins_running", "bayes_running"])
def test_it_begins_with_what_was_fitted(name: str) -> None:
    laws = followed(with_laws(name, LAWS), [{PREDICTED_TOKENS: 70}])
    expected = [LAWS.tokens_per_round, LAWS.weight, LAWS.offset, LAWS.variance]
    np.testing.assert_allclose(laws[:, :4], np.transpose(expected), rtol=1e-5)
    alike = [with_laws(n, LAWS) for n in (name, {"g": "gittins", "b": "bayes_srpt"}[name[0]])]
    rows: list[Row] = [
        {PREDICTED_TOKENS: 90, GENERATED_TOKENS: 40, ROUNDS: 16},
        {PREDICTED_TOKENS: 250, CATEGORY: 1},
        {PREDICTED_TOKENS: 20},
    ]
    first, second = (policy.predict(observe(rows))[0] for policy in alike)
    assert first == second


def test_a_finished_request_moves_the_law_of_its_category() -> None:
    policy = policies.with_settings(with_laws("bayes_running", LAWS), memory=20.0)
    one: Row = {PREDICTED_TOKENS: 100, GENERATED_TOKENS: 197, ROUNDS: 99}
    after: Row = {ARRIVAL_NUMBER: 1, PREDICTED_TOKENS: 30, CATEGORY: 1}
    laws = followed(policy, [one, one, after, after])  # to look twice changes nothing
    tokens = 197 + 1.5  # at 2 tokens per round the last one brought 1 or 2
    off = math.log(tokens) - 0.5 * math.log(100) - 0.5 * math.log(50)
    means = 80 + (tokens - 80) / 20, 40 + (100 - 40) / 20
    moved = [means[0] / means[1], 0.5, 0.5 * math.log(50) + off / 20]
    moved += [19 / 20 * (0.5 + off * off / 20), *means]
    np.testing.assert_allclose(laws[0], moved, rtol=1e-5)
    unmoved = [4.0, LAWS.weight[1], LAWS.offset[1], LAWS.variance[1], 450.0, 450 / 4]
    np.testing.assert_allclose(laws[1], unmoved, rtol=1e-5)


def test_who_is_numbered_anew_has_not_finished() -> None:
    before: Row = {ARRIVAL_NUMBER: 900, PREDICTED_TOKENS: 100, GENERATED_TOKENS: 10, ROUNDS: 5}
    laws = followed(with_laws("bayes_running", LAWS), [before, {**before, ARRIVAL_NUMBER: 3}])
    assert laws[0, 2] == pytest.approx(LAWS.offset[0])


def test_state_is_kept_from_call_to_call_and_forgotten_with_the_episode() -> None:
    policy = policies.make("gittins_running")
    observation = observe([{PREDICTED_TOKENS: 100, GENERATED_TOKENS: 50, ROUNDS: 20}])
    _, state = policy.predict(observation)
    with pytest.raises(ValueError, match="expected the state of the last call"):
        policy.predict(observation, None, np.array([False]))
    _, first = policy.predict(observation, None, np.array(True))
    np.testing.assert_array_equal(first, state)
    _, anew = policy.predict(observation, state + 1.0, np.array(True))
    np.testing.assert_array_equal(anew, state)


def test_too_many_categories() -> None:
    many = replace(LAWS, weight=np.ones(CATEGORIES + 1))
    with pytest.raises(ValueError, match="expected at most 16 categories, got 17"):
        first_laws(many)


@pytest.mark.slow
def test_following_pays_where_the_predictor_is_off() -> None:
    """Told a quarter of the long answers and four times the short ones: who follows finds out."""
    scenario = get_scenario("mixed-serial-8b")
    latencies = []
    for name in ("bayes_srpt", "bayes_running"):
        policy = policies.make(name, scenario)
        played = []
        for seed in range(4):
            workload = scenario.workload(load=0.9, num_requests=600, split="test", seed=seed)
            off = workload.predicted_tokens * np.array([0.25, 1.0, 4.0, 1.0])[workload.category]
            workload.predicted_tokens[:] = off
            requests = serve(policy, workload, scenario, split="test").requests()
            played.append((requests["completion_ns"] - requests["arrival_ns"]).mean())
        latencies.append(np.array(played))
    assert np.log(latencies[1] / latencies[0]).mean() < -0.03
