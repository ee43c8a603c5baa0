"""Rules that weigh the mean against the tail: their order on instances worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from observed import Row, observe, order_of
from test_rule_orders import LAWS, SERVER, priority_of, with_laws

from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.policies import Policy
from laps_env.policies.uniboost import is_guarded
from laps_env.sim.observation import (
    ARRIVAL_NUMBER,
    ATTAINED_S,
    CATEGORY,
    GENERATED_TOKENS,
    LAST_ACCEPTED,
    PREDICTED_TOKENS,
    QUEUE_COLUMNS,
    RAN,
    ROUNDS,
    WAITING_S,
)
from laps_env.workloads.scenarios import get_scenario


def test_bounce_serves_a_passed_prediction_later_than_sprpt() -> None:
    rows: list[Row] = [
        {PREDICTED_TOKENS: 50, GENERATED_TOKENS: 80},  # 30 past it
        {PREDICTED_TOKENS: 50, GENERATED_TOKENS: 35},  # 15 before it
        {PREDICTED_TOKENS: 20},
        {PREDICTED_TOKENS: 25, GENERATED_TOKENS: 900},  # bounced back to 25, and no further
    ]
    assert order_of(policies.make("srpt_bounce"), observe(rows)) == [1, 2, 3, 0]
    assert order_of(policies.make("sprpt"), observe(rows)) == [0, 3, 1, 2]


def test_hrrn_serves_the_longest_wait_per_estimated_time() -> None:
    # A round takes 40 ms; 2 tokens a round in category 0, 4 in category 1.
    rows: list[Row] = [
        {PREDICTED_TOKENS: 100, WAITING_S: 4.0},  # 50 rounds, 2 s: ratio 3
        {PREDICTED_TOKENS: 100, WAITING_S: 3.0, CATEGORY: 1},  # 25 rounds, 1 s: ratio 4
        {PREDICTED_TOKENS: 10, WAITING_S: 0.1},  # 0.2 s: ratio 1.5
        {PREDICTED_TOKENS: 900, ROUNDS: 1},  # started
    ]
    policy = with_laws("hrrn", LAWS)
    assert order_of(policy, observe(rows, SERVER)) == [3, 1, 0, 2]
    rows[2] = {PREDICTED_TOKENS: 10, WAITING_S: 0.7}  # ratio 4.5
    assert order_of(policy, observe(rows, SERVER)) == [3, 2, 1, 0]


def test_boost_by_hand() -> None:
    # 100 tokens at 2 a round of 40 ms: 2 s. With gamma = ln(2) / 2 s, b = ln(2) / gamma = 2 s.
    policy = policies.with_settings(with_laws("boost", LAWS), gamma=math.log(2) / 2)
    rows: list[Row] = [
        {PREDICTED_TOKENS: 100, WAITING_S: 1.0},
        # past its prediction: 199 generated and one more, 4 s: b = ln(4 / 3) / gamma = 0.83 s
        {PREDICTED_TOKENS: 9, GENERATED_TOKENS: 199, ROUNDS: 99.5, WAITING_S: 3.0},
    ]
    observation = observe(rows, SERVER)
    found = [priority_of(policy, observation, i) for i in range(2)]
    assert found == pytest.approx([-3.0, -3.0 - 2 * math.log(4 / 3) / math.log(2)], rel=1e-6)


@pytest.mark.parametrize(("gamma", "order"), [(100.0, [0, 1, 2]), (1e-6, [2, 1, 0])])
@pytest.mark.filterwarnings("ignore:boost. gamma")
def test_boost_spans_first_come_and_shortest_first(gamma: float, order: list[int]) -> None:
    policy = policies.with_settings(with_laws("boost", LAWS), gamma=gamma)
    waits = ((500, 9.0), (400, 5.0), (300, 1.0))
    rows = [{PREDICTED_TOKENS: p, WAITING_S: w} for p, w in waits]
    assert order_of(policy, observe(rows, SERVER)) == order


def test_uniboost_predicts_nothing() -> None:
    policy = policies.make("uniboost", gamma=math.log(2) / 2, guard_tokens=0)
    rows: list[Row] = [
        {ATTAINED_S: 2.0, WAITING_S: 1.0, PREDICTED_TOKENS: 1},  # -1 - 2
        {ATTAINED_S: 4.0, WAITING_S: 3.0, PREDICTED_TOKENS: 9},  # -3 - 0.83
        {WAITING_S: 0.0, PREDICTED_TOKENS: 900},  # boosted by 23 s: no service yet
    ]
    assert order_of(policy, observe(rows)) == [2, 1, 0]


def test_memguard_lets_go_at_each_threshold_once() -> None:
    """Rounds of 5 tokens: the thresholds 16, 32 and 64 are passed at 20, 35 and 65."""
    rows = np.zeros((16, len(QUEUE_COLUMNS)), np.float32)
    rows[:, GENERATED_TOKENS] = np.arange(5, 85, 5)
    rows[:, LAST_ACCEPTED], rows[:, RAN] = 4, 1
    free = [row[GENERATED_TOKENS] for row in rows if not is_guarded(row, 16)]
    assert free == [20, 35, 65]
    assert not any(is_guarded(row, 0) for row in rows)
    rows[:, RAN] = 0
    assert not any(is_guarded(row, 16) for row in rows)


def test_memguard_keeps_a_small_pool_from_thrashing() -> None:
    scenario = get_scenario("pressure-batch8-135m")
    workload = scenario.workload(load=0.9, num_requests=100)
    with_guard, without = (
        serve(policies.make("uniboost", guard_tokens=t), workload, scenario).requests()
        for t in (16, 0)
    )
    assert with_guard["recomputed_tokens"].sum() < without["recomputed_tokens"].sum() / 3


def test_gamma_falls_where_times_are_heavy_tailed() -> None:
    def priority(policy: Policy, waits: list[float]) -> float:
        observation = observe([{WAITING_S: w, ATTAINED_S: 2.0} for w in waits])
        server = np.append(observation["server"], np.float32(0))
        policy.spec.prepare.function(observation["queue"], server, policy.params)
        row = observation["queue"][0]
        return float(policy.spec.rule.function(row, server, policy.params, np.zeros(1)))

    gamma = math.log(2) / 2
    policy = policies.make("uniboost", gamma=gamma, guard_tokens=0, adaptive=1)
    assert priority(policy, [7.0] * 9) == pytest.approx(-7 - 2, rel=1e-6)
    # Of 21 the 95th percentile is the second longest, 3; the 99th is 3 + .8 * 5 = 7: 1 + 16 / 3.
    lower = gamma / (1 + 16 / 3)
    boost = -math.log(1 - math.exp(-2 * lower)) / lower
    assert priority(policy, [8.0, 3.0, *[1.0] * 19]) == pytest.approx(-8 - boost, rel=1e-6)


def test_a_long_wait_raises_a_request_above_the_first_queue() -> None:
    """Queues of 0.1, 0.2, 0.4 s; the third is risen from after 3 patiences."""
    rows: list[Row] = [
        {ATTAINED_S: 0.3, ARRIVAL_NUMBER: 1, WAITING_S: 29.0},  # third queue, risen by two
        {ARRIVAL_NUMBER: 2, WAITING_S: 1.0},
        {ARRIVAL_NUMBER: 3, WAITING_S: 0.0},
    ]
    ageing = policies.make("laps_sd_ageing", patience_s=10)
    assert order_of(ageing, observe(rows, SERVER)) == [0, 1, 2]
    rows[0] = {ATTAINED_S: 0.3, ARRIVAL_NUMBER: 4, WAITING_S: 29.0}  # same queue: by arrival
    assert order_of(ageing, observe(rows, SERVER)) == [1, 2, 0]
    rows[0] = {ATTAINED_S: 0.3, ARRIVAL_NUMBER: 4, WAITING_S: 30.0}
    assert order_of(ageing, observe(rows, SERVER)) == [0, 1, 2]
    assert order_of(policies.make("laps_sd"), observe(rows, SERVER)) == [1, 2, 0]


def test_without_patience_for_anybody_ageing_is_laps_sd() -> None:
    scenario = get_scenario("mixed-serial-8b")
    workload = scenario.workload(load=0.9, num_requests=100)
    with pytest.warns(UserWarning, match="patience_s"):
        never = policies.make("laps_sd_ageing", patience_s=1e9)
    one, other = (
        serve(p, workload, scenario).requests()["completion_ns"]
        for p in (never, policies.make("laps_sd"))
    )
    np.testing.assert_array_equal(one, other)
