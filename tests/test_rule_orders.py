"""Every rule: its order on instances worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from observed import Observation, Row, observe, order_of

from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.policies import Policy
from laps_env.policies.base.traffic_model import TrafficModel
from laps_env.policies.gittins import index_table
from laps_env.policies.laps_sd import estimated_time
from laps_env.sim.observation import (
    ACCEPTED,
    ARRIVAL_NUMBER,
    ATTAINED_S,
    CATEGORY,
    DRAFT_LENGTH,
    DRAFT_STEP_S,
    DRAFTED,
    GENERATED_TOKENS,
    IDLE_ROUNDS,
    IDLE_S,
    PREDICTED_TOKENS,
    PROMPT_TOKENS,
    ROUNDS,
    SERVER_COLUMNS,
    VERIFY_S,
    WAITING_S,
    WINDOW_SPREAD,
)
from laps_env.workloads.scenarios import get_scenario


def priority_of(policy: Policy, observation: Observation, slot: int = 0) -> float:
    """The rule's own number, by its Python body."""
    rule = policy.spec.rule.function
    memory = np.zeros(policy.spec.cells)
    row, server = observation["queue"][slot], observation["server"]
    with np.errstate(over="ignore"):  # hashing wraps around
        return float(rule(row, server, policy.params, memory))


def test_fcfs_serves_in_order_of_arrival() -> None:
    rows = [{ARRIVAL_NUMBER: n, PREDICTED_TOKENS: p} for n, p in ((7, 1), (3, 9), (5, 5))]
    assert order_of(policies.make("fcfs"), observe(rows)) == [1, 2, 0]


def test_sjf_never_leaves_a_started_request() -> None:
    rows = [
        {PREDICTED_TOKENS: 50},
        {PREDICTED_TOKENS: 10},
        {PREDICTED_TOKENS: 90, GENERATED_TOKENS: 1, ROUNDS: 1},
        {PREDICTED_TOKENS: 10},
    ]
    assert order_of(policies.make("sjf"), observe(rows)) == [2, 1, 3, 0]


def test_sprpt_serves_the_least_that_is_left() -> None:
    rows = [
        {PREDICTED_TOKENS: 100, GENERATED_TOKENS: 80},  # 20 left
        {PREDICTED_TOKENS: 60},
        {PREDICTED_TOKENS: 30},
        {PREDICTED_TOKENS: 10, GENERATED_TOKENS: 100},  # past its prediction
    ]
    assert order_of(policies.make("sprpt"), observe(rows)) == [3, 0, 2, 1]
    # half of what it has generated, 50 tokens, is then thought to remain
    assert order_of(policies.make("sprpt", overrun=0.5), observe(rows)) == [2, 0, 3, 1]


def test_trail_keeps_a_request_that_is_nearly_done() -> None:
    short = [{PREDICTED_TOKENS: 30}, {PREDICTED_TOKENS: 10}]
    early = {PREDICTED_TOKENS: 100, GENERATED_TOKENS: 79}  # 21 left, still pre-emptible
    late = {PREDICTED_TOKENS: 100, GENERATED_TOKENS: 80}
    assert order_of(policies.make("trail"), observe([*short, early])) == [1, 2, 0]
    assert order_of(policies.make("trail"), observe([*short, late])) == [2, 1, 0]
    assert order_of(policies.make("trail", c=0.9), observe([*short, late])) == [1, 2, 0]


def test_trail_with_its_codes_setting_is_sjf() -> None:
    scenario = get_scenario("mixed-serial-8b")
    workload = scenario.workload(load=0.9, num_requests=200)
    code, sjf = policies.make("trail", c=0.0), policies.make("sjf")
    one, other = (serve(p, workload, scenario).requests() for p in (code, sjf))
    np.testing.assert_array_equal(one["completion_ns"], other["completion_ns"])


def test_las_serves_the_queue_of_least_attained_service() -> None:
    las = policies.make("las", queues=3, quantum_s=1.0, growth=2.0)  # bounds at 1 s and 2 s
    attained = (5.0, 0.99, 1.0, 0.2, 1.99, 2.0)
    order = order_of(las, observe([{ATTAINED_S: s} for s in attained]))
    assert order == [1, 3, 2, 4, 0, 5]


def test_fastserve_joins_demotes_and_promotes() -> None:
    # prefill costs 21 us a token: 1,000 tokens want a quantum of 40 ms, the third queue's
    fastserve = policies.make("fastserve", "chat-serial-8b")
    rows: list[Row] = [
        {PROMPT_TOKENS: 1000},
        {PROMPT_TOKENS: 10, ATTAINED_S: 0.031},  # used up 10 and 20 ms: third queue
        {PROMPT_TOKENS: 10, ATTAINED_S: 0.029},  # used up 10 ms: second queue
        {PROMPT_TOKENS: 1000, IDLE_S: 3.0},  # neglected: back to the first
        {PROMPT_TOKENS: 10},
    ]
    assert order_of(fastserve, observe(rows)) == [3, 4, 2, 0, 1]
    # the promoted one has the first quantum again, not the service it had before
    rows[3] = {PROMPT_TOKENS: 1000, IDLE_S: 3.0, ATTAINED_S: 9.0}
    _, state = fastserve.predict(observe(rows))
    for attained, order in ((9.009, [3, 4, 2, 0, 1]), (9.011, [4, 2, 3, 0, 1])):
        rows[3] = {PROMPT_TOKENS: 1000, ATTAINED_S: attained}
        assert order_of(fastserve, observe(rows), state) == order


def test_vllm_ltr_promotes_for_ten_rounds() -> None:
    ltr = policies.make("vllm_ltr")
    rows: list[Row] = [{PREDICTED_TOKENS: p} for p in (10, 20, 90)]
    rows[2] = {PREDICTED_TOKENS: 90, IDLE_ROUNDS: 199, ROUNDS: 4}
    assert order_of(ltr, observe(rows)) == [0, 1, 2]
    rows[2] = {PREDICTED_TOKENS: 90, IDLE_ROUNDS: 200, ROUNDS: 4}
    assert order_of(ltr, observe(rows)) == [2, 0, 1]
    _, state = ltr.predict(observe(rows))
    for rounds, order in ((13, [2, 0, 1]), (14, [0, 1, 2])):
        rows[2] = {PREDICTED_TOKENS: 90, IDLE_ROUNDS: 0, ROUNDS: rounds}
        assert order_of(ltr, observe(rows), state) == order


#: A round of 4 draft steps of 5 ms and a verification of 20 ms takes 40 ms.
SERVER = {DRAFT_LENGTH: 4, DRAFT_STEP_S: 0.005, VERIFY_S: 0.02}


def test_the_estimate_is_the_papers_formula() -> None:
    """T = n L T_SSM / (n A + 1) + L T_LLM / (n A + 1)."""
    server = np.zeros(len(SERVER_COLUMNS), np.float32)
    server[[DRAFT_LENGTH, DRAFT_STEP_S, VERIFY_S]] = 4, 0.5, 2.0
    # 4 * 90 * 0.5 / 3 + 90 * 2 / 3 = 60 + 60
    assert estimated_time(server, 90.0, 0.5) == pytest.approx(120.0)
    # nothing accepted, a round per token: 4 * 7 * 0.5 + 7 * 2 = 28
    assert estimated_time(server, 7.0, 0.0) == pytest.approx(28.0)
    server[DRAFT_LENGTH] = 0  # no speculation: 7 * 2
    assert estimated_time(server, 7.0, 0.0) == pytest.approx(14.0)


def test_laps_sd_serves_least_attained_until_the_rate_is_stable() -> None:
    laps_sd = policies.make("laps_sd")  # queues of 0.1, 0.2, 0.4, ... s
    stable = {ROUNDS: 16, DRAFTED: 64, ACCEPTED: 32, WINDOW_SPREAD: 0.39}  # 0.39 / 4 < 0.1; A = 0.5
    rows = [
        stable | {PREDICTED_TOKENS: 57, GENERATED_TOKENS: 48},  # 9 tokens, 3 rounds: 0.12 s
        {ATTAINED_S: 0.15, PREDICTED_TOKENS: 1},  # second queue, before the estimates there
        stable | {PREDICTED_TOKENS: 54, GENERATED_TOKENS: 48},  # 6 tokens, 2 rounds: 0.08 s
        {ATTAINED_S: 0.05, PREDICTED_TOKENS: 999},
        stable | {PREDICTED_TOKENS: 50, WINDOW_SPREAD: 0.41, ATTAINED_S: 0.3},  # not stable
        stable | {PREDICTED_TOKENS: 56, GENERATED_TOKENS: 48},  # 8 tokens: 0.107 s
        stable | {PREDICTED_TOKENS: 1, ROUNDS: 2, WINDOW_SPREAD: 0.0, ATTAINED_S: 0.9},  # too early
    ]
    observation = observe(rows, SERVER)
    assert order_of(laps_sd, observation) == [3, 2, 1, 5, 0, 4, 6]
    # of the whole request: 57 tokens are 0.76 s, 54 are 0.72, 56 are 0.75: all in the fourth queue
    whole = policies.with_settings(laps_sd, remaining=0)
    assert order_of(whole, observation) == [3, 1, 4, 2, 5, 0, 6]


def test_laps_sd_can_freeze_the_rate() -> None:
    stable = {ROUNDS: 16, DRAFTED: 64, ACCEPTED: 32, PREDICTED_TOKENS: 90}
    later = stable | {ROUNDS: 32, DRAFTED: 128, ACCEPTED: 32}  # A has sunk to 0.25
    other = {ROUNDS: 16, DRAFTED: 64, ACCEPTED: 24, PREDICTED_TOKENS: 90}  # 0.375
    for frozen, order in ((0, [1, 0]), (1, [0, 1])):
        laps_sd = policies.make("laps_sd", frozen=frozen, remaining=0, queues=2)
        _, state = laps_sd.predict(observe([stable, other], SERVER))
        assert order_of(laps_sd, observe([later, other], SERVER), state) == order


def with_laws(name: str, laws: TrafficModel) -> Policy:
    """A rule under these laws in place of fitted ones."""
    policy = policies.make(name)
    assert policy.spec.fitted is not None
    params = np.concatenate([list(policy.settings.values()), policy.spec.fitted(laws)])
    return replace(policy, params=params, categories=("a", "b"))


#: Two categories: 50 and 400 tokens in the median, 2 and 4 tokens per round.
LAWS = TrafficModel(
    # log L of deviation 1 and 1/2, a prediction of deviation 1: weights 1/2 and 1/5
    weight=np.array([0.5, 0.2]),
    offset=np.array([0.5, 0.8]) * np.log([50.0, 400.0]),
    variance=np.array([0.5, 0.2]),
    misfit=np.zeros(2),
    heaviness=np.zeros(2),
    scale=np.sqrt([0.5, 0.2]),
    longest_tokens=1000.0,
    tokens=np.array([80.0, 450.0]),
    tokens_per_round=np.array([2.0, 4.0]),
    seconds_per_prefill_token=0.0,
    seconds_per_prefill=0.0,
)


def test_category_shrunk_counts_rounds() -> None:
    policy = with_laws("category_shrunk", LAWS)
    rows = [
        {PREDICTED_TOKENS: 100},  # 100 / 2
        {PREDICTED_TOKENS: 160, CATEGORY: 1},  # 160 / 4
        {PREDICTED_TOKENS: 220, GENERATED_TOKENS: 80, ROUNDS: 20},  # 140 / ((20 * 2 + 80) / 40)
    ]
    observation = observe(rows)
    assert order_of(policy, observation) == [1, 2, 0]
    priorities = [priority_of(policy, observation, i) for i in range(3)]
    assert priorities == pytest.approx([50, 40, 140 / 3])


def test_bayes_srpt_has_the_posterior_mean() -> None:
    policy = with_laws("bayes_srpt", LAWS)
    rows = [
        # weights 1/2 and 1/2: median sqrt(50 * 200) = 100, variance 1/2, mean 100 exp(1/4)
        {PREDICTED_TOKENS: 200, GENERATED_TOKENS: 28, ROUNDS: 14},
        # prior variance 1/4 against 1: the prediction weighs 1/5, the law 4/5; variance 1/5
        {PREDICTED_TOKENS: 200, CATEGORY: 1},
    ]
    expected = [
        (100 * math.exp(0.25) - 28) / 2,
        math.exp(0.2 * math.log(200) + 0.8 * math.log(400) + 0.1) / 4,
    ]
    observation = observe(rows)
    assert [priority_of(policy, observation, i) for i in range(2)] == pytest.approx(expected)
    assert order_of(policy, observation) == [0, 1]


def gittins_index(age: float, sd: float) -> float:
    """min over D of E[min(rest, D)] / P(rest <= D) of a log-normal of median 1, rest = X - age."""

    def survival(x: Any) -> Any:
        logs = np.log(np.maximum(x, 1e-300)) / (sd * math.sqrt(2))
        return np.array([0.5 * math.erfc(value) for value in logs])

    spans = np.concatenate([[0.0], np.geomspace(1e-6 * (1 + age), 1e4 * (1 + age), 8001)])
    middle = (spans[1:] + spans[:-1]) / 2
    alive = survival(age + spans) / survival([age])[0]
    between = survival(age + middle) / survival([age])[0]
    served = np.cumsum(np.diff(spans) * (alive[1:] + 4 * between + alive[:-1]) / 6)
    finished = 1 - alive[1:]
    return float((served[finished > 1e-9] / finished[finished > 1e-9]).min())


@pytest.mark.parametrize("sd", [0.1, 0.35, 0.8, 1.2])
def test_the_gittins_table_is_the_brute_force_index(sd: float) -> None:
    table = index_table(sd)
    for i in (0, 3, 20, 50, 64, 70, 100):
        age = i / (128 - i)
        assert table[i] * (1 + age) == pytest.approx(gittins_index(age, sd), rel=1e-3), age


def test_gittins_is_the_index_in_rounds() -> None:
    policy = with_laws("gittins", LAWS)
    rows = [
        {PREDICTED_TOKENS: 200},
        {PREDICTED_TOKENS: 200, GENERATED_TOKENS: 130, ROUNDS: 65},
        {PREDICTED_TOKENS: 200, CATEGORY: 1, GENERATED_TOKENS: 317, ROUNDS: 60},
    ]
    median = math.exp(0.2 * math.log(200) + 0.8 * math.log(400))
    expected = [
        100 * gittins_index(0.0, math.sqrt(0.5)) / 2,
        100 * gittins_index(1.3, math.sqrt(0.5)) / 2,
        median * gittins_index(317 / median, math.sqrt(0.2)) / ((20 * 4 + 317) / 80),
    ]
    observation = observe(rows)
    priorities = [priority_of(policy, observation, i) for i in range(3)]
    assert priorities == pytest.approx(expected, rel=2e-3)
    assert order_of(policy, observation) == np.argsort(expected).tolist()


def test_random_is_uniform_and_changes_with_the_moment() -> None:
    policy = policies.make("random")
    drawn = np.array(
        [
            [priority_of(policy, observe([{ARRIVAL_NUMBER: n, WAITING_S: s}])) for n in range(40)]
            for s in np.linspace(0, 9, 40)
        ]
    )
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert np.unique(drawn).size == drawn.size
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("growth", [1.0, 0.5])
def test_queues_that_cover_nothing_end_the_search(growth: float) -> None:
    policy = policies.make("las", queues=1e300, growth=growth)
    assert order_of(policy, observe([{ATTAINED_S: 5.0}, {ATTAINED_S: 0.0}])) == [1, 0]
