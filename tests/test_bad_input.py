"""Bad input to the environments: every error names what was expected and what came."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from env_play import SCORES, SEQUENTIAL, SLOTS, arguments, play, small, workload_of

import laps_env
from laps_env.envs.replay import SpecDecodeReplay
from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.workloads import Workload
from laps_env.workloads.scenarios import Scenario, get_scenario


@pytest.fixture(params=laps_env.ENV_IDS)
def env(request: pytest.FixtureRequest) -> Iterator[gym.Env[Any, Any]]:
    """Each environment, small, with the wrappers of `gym.make`."""
    made = gym.make(request.param, **arguments(request.param))
    yield made
    made.close()


def state_of(env: gym.Env[Any, Any]) -> bytes:
    """Everything that a step could move."""
    rows = env.unwrapped._envs  # type: ignore[attr-defined]
    return pickle.dumps((rows.simulation, rows._steps, rows._returns, rows._ended))


def test_a_masked_action_is_defined_and_flagged() -> None:
    env = small(num_requests=20, load=5.0)
    _, info = env.reset(seed=0)
    assert info["action_mask"].dtype == np.int8
    while info["action_mask"].sum() < 3:
        info = env.step(env.action_space.sample(mask=info["action_mask"]))[-1]
    assert not info["action_mask"][SLOTS]  # starting an empty round is masked while someone waits
    *_, info = env.step(SLOTS)
    assert info["invalid_action"]
    assert info["round"]
    pick = int(np.flatnonzero(info["action_mask"])[0])
    *_, info = env.step(pick)
    assert not info["round"]
    assert info["action_mask"][SLOTS]
    *_, info = env.step(pick)  # already picked
    assert info["invalid_action"]
    assert info["round"]


BAD_PICKS = (-1, SLOTS + 1, 2**70, 1.0, np.nan, None, "1", True, [1], np.zeros(3, int))
BAD_SCORES = (
    *(0.0, np.zeros(SLOTS + 1), np.zeros((1, SLOTS)), np.full(SLOTS, np.nan)),
    *([0.0] * (SLOTS - 1) + [np.nan], ["high"] * SLOTS, None),
)


@pytest.mark.parametrize(
    ("env_id", "action"),
    [*((SEQUENTIAL, action) for action in BAD_PICKS), *((SCORES, scores) for scores in BAD_SCORES)],
    ids=repr,
)
def test_a_bad_action_moves_nothing(env_id: str, action: Any) -> None:
    env = small(env_id).unwrapped
    env.reset(seed=0)
    before = state_of(env)
    with pytest.raises(ValueError, match=r"expected.*got|could not convert"):
        env.step(action)
    assert state_of(env) == before


def test_a_single_environment_speaks_of_one_action() -> None:
    env = small().unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"^action: expected shape \(\), got \(1,\)"):
        env.step([1])


def test_a_huge_integer_is_a_reward_scale() -> None:
    env = small(reward_scale=10**20)
    env.reset(seed=0)
    rewards = [result[1] for result in play(env, 0)]
    latency = env.unwrapped.summary()["mean_latency_s"]  # type: ignore[attr-defined]
    assert sum(rewards) == pytest.approx(-4e-20 * latency)


def test_a_step_needs_a_reset(env: gym.Env[Any, Any]) -> None:
    bare = env.unwrapped
    with pytest.raises(gym.error.ResetNeeded):
        bare.step(bare.action_space.sample())
    for ask in (bare.summary, bare.workload):  # type: ignore[attr-defined]
        with pytest.raises(gym.error.ResetNeeded):
            ask()
    env.reset(seed=0)
    end = play(env, 0)[-1]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(env.action_space.sample())
    assert bare.summary() == end[-1]["summary"]  # type: ignore[attr-defined]
    env.reset()
    env.step(env.action_space.sample())


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"scenario": "chess"}, r"scenario: expected one of .*chat-serial-135m, .*; got 'chess'"),
    ({"scenario": 3}, r"scenario: expected one of .*chat-serial-135m, .*; got 3"),
    *(
        ({"load": load}, r"load: expected a finite number > 0, got")
        for load in (np.nan, np.inf, -0.5, 0.0, "heavy", None, True, 10**400)
    ),
    *(
        ({"load": load}, r"load: expected the last of 1 requests within 1e\+09 s, got .* mean gap")
        for load in (1e-9, 1e-300, 5e-324)
    ),
    ({"load": "recorded"}, r"load 'recorded': expected recorded arrivals"),
    ({"batch_size": SLOTS + 1}, rf"batch_size: expected at most .*\({SLOTS}\), got {SLOTS + 1}"),
    *(
        ({"draft_length": n}, r"draft_length: expected 0\.\.16, 'smartspec' or .*, or a t")
        for n in (-1, 17, 2.0, "fast", True)
    ),
    *(
        ({name: value}, rf"{name}: expected an integer >= 1, got")
        for name in ("num_requests", "slots", "batch_size", "pool_tokens", "queue_limit")
        for value in (0, -3, 2.5, np.nan)
    ),
    *(
        ({name: 10**30}, rf"{name}: expected an integer <= \d+, got 1000")
        for name in ("num_requests", "slots", "batch_size", "pool_tokens", "queue_limit")
    ),
    *(
        ({name: value}, rf"{name}: expected a finite number > 0, got")
        for name in ("time_limit_s", "reward_scale")
        for value in (0.0, -1.0, np.nan, np.inf, "1", True, 10**400)
    ),
    ({"reward_scale": None}, "reward_scale: expected a finite number > 0, got None"),
    *(
        ({"predictor_error": error}, r"predictor error: expected a finite number >= 0, got")
        for error in (-0.1, np.nan, np.inf, "half", True, 10**400)
    ),
    ({"scenario": ["chat-serial-8b"]}, r"scenario: expected one of .*; got \['chat-serial-8b'\]"),
    ({"split": "exam"}, r"split: expected one of .*; got 'exam'"),
    ({"interface": "wish"}, r"interface: expected one of"),
    (
        {"render_mode": "film"},
        r"render_mode: expected None, 'ansi', 'rgb_array', 'human'; got 'film'",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD_ARGUMENTS, ids=lambda value: repr(value)[:40]
)
def test_a_bad_argument_is_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpecDecodeReplay(**{"num_requests": 4, "slots": SLOTS} | arguments)


def test_a_scenario_without_a_measured_saturation_has_no_load() -> None:
    template = get_scenario("chat-serial-8b")
    scenario = Scenario("new", "", template.server, template.requests, template.arrivals)
    with pytest.raises(
        ValueError, match=r"saturation_rps of scenario 'new': expected .* with_saturation"
    ):
        SpecDecodeReplay(scenario=scenario)


def test_unknown_arguments_are_refused() -> None:
    for name in ("sots", "num_envs"):
        unknown: dict[str, Any] = {name: 3}
        with pytest.raises(TypeError, match=name):
            SpecDecodeReplay(**unknown)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worklod": None}, r"reset options: expected only .*; got \['worklod'\]"),
        ({"reset_mask": np.ones(1, bool)}, "reset_mask is for the vector environment"),
        ({"workload": "chat"}, "workload: expected a Workload, got str"),
        ({"workload_seed": -1}, "workload_seed: expected an integer >= 0, got -1"),
        ({"workload_seed": 1.5}, "workload_seed: expected an integer >= 0, got 1.5"),
        ({"workload_seed": True}, "workload_seed: expected an integer >= 0, got True"),
        ({"workload_seed": 2**64}, r"workload_seed: expected an integer <= \d+, got 18446744"),
        ("workload_seed", "reset options: expected a dict, got 'workload_seed'"),
        ({3: 4, "x": 5}, r"reset options: expected only .*; got \[3, 'x'\]"),
    ],
)
def test_a_bad_reset_option_changes_nothing(options: Any, message: str) -> None:
    env = small().unwrapped
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    before = state_of(env)
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    assert state_of(env) == before


@pytest.mark.parametrize(
    "seed",
    [-1, 2**63, 2**70, True, 1.5, "3", [1], [1, 2, 3], [1, -2], [1.5, 2], [1, 2**70], {1, 2}],
)
def test_a_bad_seed_is_refused(seed: Any) -> None:
    envs = SpecDecodeReplayVectorEnv(2, num_requests=4, slots=SLOTS)
    with pytest.raises(ValueError, match=r"seed: expected .*, got"):
        envs.reset(seed=seed)
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.zeros(2, int))


@pytest.mark.parametrize(
    "options",
    [
        {"predictor_error": 1e3},
        {"predictor_error": np.float32(50)},
        {"pool_tokens": 2**40, "time_limit_s": 1e300, "queue_limit": 2**40},
        {"load": 1e308},
        {"reward_scale": 10**20},
    ],
    ids=str,
)
def test_extreme_options_stay_inside_the_observation_space(options: dict[str, Any]) -> None:
    env = small(**options)  # with Gymnasium's checker, which warns of observations outside
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.reset(seed=0)
        *_, terminated, truncated, info = play(env, 0)[-1]
    assert terminated
    assert not truncated
    assert np.isfinite(list(info["summary"].values())).all()


def test_a_summary_before_the_first_round_is_finite() -> None:
    env = small().unwrapped
    env.reset(seed=0)
    workload = replace(workload_of(env), arrival_ns=np.zeros(4, np.int64))
    env.reset(options={"workload": workload})
    summary = env.summary()  # type: ignore[attr-defined]
    assert summary["throughput_rps"] == summary["makespan_s"] == summary["utilization"] == 0


def test_a_request_larger_than_the_pool_is_refused() -> None:
    env = small(pool_tokens=100, draft_length=4).unwrapped
    workload = Workload(
        arrival_ns=np.array([0, 5]),
        prompt_tokens=np.array([10, 60]),
        output_tokens=np.array([4, 36]),
        predicted_tokens=np.array([4.0, 36.0]),
        category=np.array([0, 0]),
        accepted_length=np.zeros(40, np.uint8),
    )
    message = (
        r"request 1: needs 101 cache tokens \(prompt 60 \+ output 36 \+ look-ahead 5\), "
        r"expected at most pool_tokens = 100"
    )
    with pytest.raises(ValueError, match=message):
        env.reset(options={"workload": workload})
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    env = small(pool_tokens=101, draft_length=4).unwrapped
    env.reset(options={"workload": workload})
    assert play(env, 0)[-1][2]


def test_reset_options_hold_for_one_episode() -> None:
    env, other = small(), small()
    env.reset(seed=0)
    workload = workload_of(env)
    env.reset(seed=11, options={"workload_seed": 0})
    assert workload_of(env).equals(workload)
    other.reset(seed=11, options={"workload": workload})
    assert workload_of(other) is workload
    env.reset()
    other.reset()
    assert not workload_of(env).equals(workload)
    assert workload_of(env).equals(workload_of(other))
