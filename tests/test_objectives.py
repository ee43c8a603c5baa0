"""Rewards under each objective add up to minus what the episode cost; rules that go by limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from env_play import SCORES, SEQUENTIAL, play, small
from observed import Row, observe, order_of
from test_rule_orders import LAWS, SERVER, with_laws

from laps_env import policies
from laps_env.envs.replay import SpecDecodeReplay
from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.sim.costs import CostModel
from laps_env.sim.metrics import has_limits, within_limits
from laps_env.sim.objectives import OBJECTIVES
from laps_env.sim.observation import (
    CATEGORY,
    FINISH_LEFT_S,
    FIRST_TOKEN_LEFT_S,
    GENERATED_TOKENS,
    MOST_LEFT_S,
    NEXT_TOKEN_LEFT_S,
    PREDICTED_TOKENS,
)
from laps_env.sim.server_model import ServerModel
from laps_env.sim.state import NO_LIMIT
from laps_env.workloads import Workload
from laps_env.workloads.limits import Limits
from laps_env.workloads.scenarios import Scenario, get_scenario

SECOND = 1_000_000_000

#: Nobody kept waiting is within limits, and nobody who waits long is.
LIMITS = {"chat": Limits(ttft_s=4.0, tpot_s=0.03), "code": Limits(e2e_s=3.0)}
WEIGHTS = {"chat": 3.0, "math": 0.5}


def limited() -> Scenario:
    return replace(get_scenario("mixed-batch8-8b"), limits=LIMITS)


def cost_of(objective: str, requests: Any, categories: Any, weights: dict[str, float]) -> float:
    """The metric, from what happened to each request of an episode that has come to its end."""
    latency = (requests["completion_ns"] - requests["arrival_ns"]) * 1e-9
    missed = has_limits(requests) & ~within_limits(requests)
    costs = {"mean_latency": latency, "tail_latency": latency**2, "slo_attainment": missed}
    by_category = np.array([weights.get(name, 1.0) for name in categories])
    return float((costs[objective] * by_category[requests["category"]]).sum())


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("env_id", [SEQUENTIAL, SCORES])
def test_the_return_is_minus_the_cost(
    env_id: str, objective: str, weights: dict[str, float] | None
) -> None:
    env = small(
        env_id,
        scenario=limited(),
        num_requests=40,
        load=1.5,
        objective=objective,
        category_weights=weights,
        reward_scale=7.0,
    )
    env.reset(seed=1)
    results = play(env, 1)
    assert results[-1][2]
    inner: Any = env.unwrapped
    requests, categories = inner.simulation.requests(), inner.workload().categories
    expected = cost_of(objective, requests, categories, weights or {})
    assert expected > 0
    total = sum(result[1] for result in results)
    assert total == pytest.approx(-expected / 7.0, rel=1e-9)
    summary = results[-1][4]["summary"]
    assert summary["return"] == pytest.approx(total)
    if objective == "slo_attainment":
        assert 0 < summary["slo_attainment"] < 1


def one_by_one(**options: Any) -> tuple[gym.Env[Any, Any], Workload]:
    """Two requests of two tokens at 0 s and 1 s; a round is one token of one, and takes 2 s."""
    cost = CostModel(0, 2 * SECOND, 0, 0, 0, 0, 0, 0)
    server = ServerModel(batch_size=1, draft_length=0, pool_tokens=100, cost=cost)
    workload = Workload(
        arrival_ns=np.array([0, SECOND]),
        prompt_tokens=np.array([1, 1]),
        output_tokens=np.array([2, 2]),
        accepted_length=np.zeros(4, np.uint8),
        predicted_tokens=np.array([2.0, 2.0]),
        category=np.array([0, 1]),
        categories=("chat", "code"),
        limits_ns=np.array([[NO_LIMIT, SECOND, NO_LIMIT], [4 * SECOND, NO_LIMIT, 6 * SECOND]]),
        source="by hand",
    )
    scenario = replace(get_scenario("mixed-serial-8b"), server=server)
    return gym.make(SEQUENTIAL, scenario=scenario, slots=2, **options), workload


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        # by 2 s: 2 and 1 s old; by 4 s: the first is done at 4 s; by 6 and 8 s: 5 and 7 s
        ("mean_latency", [-3.0, -4.0, -2.0, -2.0]),
        ("tail_latency", [-(4.0 + 1.0), -(12.0 + 8.0), -(25.0 - 9.0), -(49.0 - 25.0)]),
        # the first takes 2 s a token, which its end shows; the second has its first token after 5 s
        # where 4 are the limit, and that it ends after its limit, too, costs no more
        ("slo_attainment", [0.0, -1.0, -1.0, 0.0]),
    ],
)
def test_an_episode_by_hand(objective: str, expected: list[float]) -> None:
    env, workload = one_by_one(objective=objective)
    env.reset(options={"workload": workload})
    rewards = [env.step(action)[1] for action in (0, 0, 1, 1)]
    assert rewards == pytest.approx(expected)


def test_environments_of_a_vector_are_charged_apart() -> None:
    options: dict[str, Any] = {
        "scenario": limited(), "num_requests": 6, "slots": 8, "objective": "tail_latency",
    }  # fmt: skip
    envs = SpecDecodeReplayVectorEnv(2, **options)
    single = gym.make(SEQUENTIAL, **options)
    envs.reset(seed=[5, 6])
    single.reset(seed=6)
    for _ in range(40):
        reward = envs.step(np.array([8, 0]))[1]
        step = single.step(0)
        assert reward[1] == step[1]
        if step[2]:
            break


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "p99"}, "objective: expected one of mean_latency, .*; got 'p99'"),
        (
            {"category_weights": {"poetry": 1.0}},
            "category_weights: expected one of .*; got 'poetry'",
        ),
        (
            {"category_weights": {"code": -1.0}},
            "category_weights: code: expected a finite number >= 0, got -1.0",
        ),
        (
            {"category_weights": {"code": float("nan")}},
            "category_weights: code: expected a finite number >= 0, got nan",
        ),
    ],
)
def test_an_objective_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make(SEQUENTIAL, **options)


def test_attainment_needs_limits() -> None:
    env = small(objective="slo_attainment")
    with pytest.raises(ValueError, match="objective: expected requests with limits"):
        env.reset(seed=0)


def test_earliest_deadline_first_by_hand() -> None:
    rows: list[Row] = [
        {FIRST_TOKEN_LEFT_S: 3.0, NEXT_TOKEN_LEFT_S: MOST_LEFT_S, FINISH_LEFT_S: 9.0},
        {FIRST_TOKEN_LEFT_S: MOST_LEFT_S, NEXT_TOKEN_LEFT_S: 2.0, FINISH_LEFT_S: MOST_LEFT_S},
        {FIRST_TOKEN_LEFT_S: -0.5, NEXT_TOKEN_LEFT_S: MOST_LEFT_S, FINISH_LEFT_S: MOST_LEFT_S},
        {FIRST_TOKEN_LEFT_S: -4.0, NEXT_TOKEN_LEFT_S: MOST_LEFT_S, FINISH_LEFT_S: MOST_LEFT_S},
        dict.fromkeys((FIRST_TOKEN_LEFT_S, NEXT_TOKEN_LEFT_S, FINISH_LEFT_S), MOST_LEFT_S),
    ]
    assert order_of(policies.make("edf"), observe(rows)) == [1, 0, 4, 2, 3]
    hard = policies.with_settings(policies.make("edf"), late_last=0)
    assert order_of(hard, observe(rows)) == [3, 2, 1, 0, 4]


def test_least_slack_by_hand() -> None:
    """A round takes 40 ms and commits 2 tokens of category 0, 4 of category 1."""
    far: Row = dict.fromkeys((FIRST_TOKEN_LEFT_S, NEXT_TOKEN_LEFT_S, FINISH_LEFT_S), MOST_LEFT_S)
    rows: list[Row] = [
        {**far, PREDICTED_TOKENS: 100, FINISH_LEFT_S: 2.5},  # 50 rounds, 2 s: 0.5 s
        {**far, PREDICTED_TOKENS: 100, FINISH_LEFT_S: 1.4, CATEGORY: 1},  # 1 s: 0.4 s
        {**far, PREDICTED_TOKENS: 900, FIRST_TOKEN_LEFT_S: 0.3},  # a round: 0.26 s
        {**far, PREDICTED_TOKENS: 100, GENERATED_TOKENS: 0, FINISH_LEFT_S: 1.9},  # 0.1 s too late
        {**far, PREDICTED_TOKENS: 10},
    ]
    assert order_of(with_laws("least_slack", LAWS), observe(rows, SERVER)) == [2, 1, 0, 4, 3]


def test_the_names_are_documented() -> None:
    assert all(f'"{name}"' in (SpecDecodeReplay.__doc__ or "") for name in OBJECTIVES)
