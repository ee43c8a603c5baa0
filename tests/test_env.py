"""Every registered id is a Gymnasium environment that also stable-baselines3 accepts."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from kernel_pairs import REWARD_SCALE, SATURATION_RPS, Pair

import laps_env
from laps_env.env import SpecDecodeReplay
from laps_env.layout import OCCUPIED
from laps_env.scenarios import Scenario, get_scenario
from laps_env.workload import Workload

PICK, PRIORITY = laps_env.ENV_IDS
SLOTS = 6

# What the checkers say of a design that stays: quantities without a natural bound are documented
# as unbounded, and the request table is a table.
ACCEPTED_WARNINGS = ("Box observation space maximum value is infinity", "unconventional shape")


@pytest.fixture(params=laps_env.ENV_IDS)
def env(request: pytest.FixtureRequest) -> Iterator[gym.Env[Any, Any]]:
    """Each environment, small, with the wrappers of `gym.make`."""
    made = gym.make(request.param, num_requests=4, slots=SLOTS, batch_size=2, render_mode="ansi")
    yield made
    made.close()


def small(env_id: str = PICK, **kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make(env_id, **{"num_requests": 4, "slots": SLOTS, "batch_size": 2} | kwargs)


def play(env: gym.Env[Any, Any], seed: int, steps: int = 10**6) -> list[Any]:
    """What `step` returned under random actions, to the episode's end."""
    env.action_space.seed(seed)
    results: list[Any] = []
    while len(results) < steps and not (results and (results[-1][2] or results[-1][3])):
        results.append(env.step(env.action_space.sample()))
    return results


def state_of(env: gym.Env[Any, Any]) -> bytes:
    """Everything that a step could move."""
    rows = env.unwrapped._rows  # type: ignore[attr-defined]
    return pickle.dumps((rows.simulation, rows._steps, rows._returns, rows._ended))


# -- the interface --------------------------------------------------------------------------------


def test_the_checkers_pass(env: gym.Env[Any, Any]) -> None:
    from stable_baselines3.common.env_checker import check_env as check_env_sb3

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
        check_env_sb3(env.unwrapped, skip_render_check=False)
    messages = [str(warning.message) for warning in caught]
    assert [m for m in messages if not any(known in m for known in ACCEPTED_WARNINGS)] == []


def test_the_id_names_its_module() -> None:
    assert isinstance(gym.make(f"laps_env:{PICK}").unwrapped, SpecDecodeReplay)


def test_the_default_is_chat_serial_with_64_slots() -> None:
    env = gym.make(PICK)
    assert env.action_space == gym.spaces.Discrete(65)
    assert env.unwrapped.scenario is get_scenario("chat-serial")  # type: ignore[attr-defined]
    assert gym.make(PRIORITY).action_space.shape == (64,)


def test_a_random_episode(env: gym.Env[Any, Any]) -> None:
    env.reset(seed=4)
    play(env, 4, steps=7)  # an episode that is cut short leaves nothing behind
    observation, info = env.reset(seed=5)
    observations = [observation]
    assert env.observation_space.contains(observation)
    assert info["dt"] == 0.0
    results = play(env, 5)
    for observation, reward, terminated, truncated, info in results:
        assert env.observation_space.contains(observation)
        assert all(np.isfinite(part).all() for part in observation.values())
        assert type(reward) is float
        assert type(terminated) is type(truncated) is bool
        assert (type(info["dt"]), type(info["round"])) == (float, bool)
        assert type(info["invalid_action"]) is bool
        assert (info["dt"] > 0) == info["round"]
        assert reward < 0 or not info["round"]
        for earlier in observations[-3:]:
            for name, part in observation.items():
                assert not np.shares_memory(part, earlier[name])
        observations.append(observation)
    assert results[-1][2:4] == (True, False)

    assert all("summary" not in info for *_, info in results[:-1])
    summary = results[-1][-1]["summary"]
    assert all(type(value) is float for value in summary.values())
    total = sum(reward for _, reward, *_ in results)
    assert summary["return"] == pytest.approx(total)
    assert total == pytest.approx(-summary["mean_latency_s"] * summary["requests"])
    assert summary["finished"] == summary["requests"] == 4
    assert summary["makespan_s"] >= sum(info["dt"] for *_, info in results)
    assert summary == env.unwrapped.summary()  # type: ignore[attr-defined]


def test_seeds(env: gym.Env[Any, Any]) -> None:
    def episode(seed: int | None) -> list[Any]:
        return [env.reset(seed=seed), *play(env, 1)]

    first, second = episode(7), episode(None)
    assert not data_equivalence(first[-1], second[-1])  # without a seed the next episode follows
    assert data_equivalence(episode(7), first, exact=True)
    assert data_equivalence(episode(None), second, exact=True)
    assert not data_equivalence(episode(8)[-1], first[-1])
    other = gym.make(env.spec)  # type: ignore[arg-type]
    assert data_equivalence([other.reset(seed=7), *play(other, 1)], first, exact=True)


def test_unseeded_environments_differ(env: gym.Env[Any, Any]) -> None:
    other = gym.make(env.spec)  # type: ignore[arg-type]
    env.reset()
    other.reset()
    assert not _workload(env).equals(_workload(other))


def _workload(env: gym.Env[Any, Any]) -> Workload:
    return env.unwrapped.reveal_workload()  # type: ignore[attr-defined, no-any-return]


def test_an_episode_leaves_its_workload_as_it_was(env: gym.Env[Any, Any]) -> None:
    """So that two policies under one seed meet the same arrivals, lengths and acceptances."""
    env.reset(seed=3)
    workload = copy.deepcopy(_workload(env))
    play(env, 1)
    assert _workload(env).equals(workload)
    env.reset(seed=3)
    play(env, 2)
    assert _workload(env).equals(workload)


def test_copies_go_on_alike_and_apart(env: gym.Env[Any, Any]) -> None:
    env.reset(seed=2)
    play(env, 1, steps=3)
    copies = [copy.deepcopy(env.unwrapped), pickle.loads(pickle.dumps(env.unwrapped))]  # noqa: S301
    ends = [play(e, 4) for e in (*copies, env)]
    assert data_equivalence(ends[0], ends[2], exact=True)
    assert data_equivalence(ends[1], ends[2], exact=True)


def test_ansi_rendering(env: gym.Env[Any, Any]) -> None:
    observation, _ = env.reset(seed=0)
    play(env, 1, steps=3)
    observation = env.step(env.action_space.sample())[0]
    text = env.render()
    assert isinstance(text, str)
    assert text.count("\n") == 1 + observation["queue"][:, OCCUPIED].sum()
    assert small(env.spec.id).unwrapped.render() is None  # type: ignore[union-attr]


def test_the_environment_equals_the_reference() -> None:
    """Through the public face, with the rewards and the infos that an agent gets."""
    for seed in range(40):
        rng = np.random.default_rng([seed, 9])
        pair = Pair.random(rng)
        reference, server = pair.reference, pair.simulation.server
        template = get_scenario("chat-serial")
        scenario = Scenario("random", "", server, template.bodies, template.arrivals)
        limit, queue_limit = reference.time_limit_ns, reference.queue_limit
        env = SpecDecodeReplay(
            scenario=scenario_with_saturation(scenario),
            slots=pair.slots,
            reward_scale=REWARD_SCALE,
            time_limit_s=None if limit is None else limit * 1e-9,
            queue_limit=queue_limit,
            interface="priority" if seed % 2 else "pick",
        )
        env.reset(options={"workload": pair.workload})
        while not pair.ended:
            if seed % 2:
                scores = rng.normal(size=pair.slots)
                expected = reference.step_priorities(list(-scores))
                result = env.step(scores)
            else:
                action = int(rng.choice([*pair.valid_actions(), rng.integers(pair.slots + 1)]))
                expected = reference.step(action)
                result = env.step(action)
            observation, reward, terminated, truncated, info = result
            assert (terminated, truncated) == expected[4:]
            assert (info["dt"], info["round"]) == (expected[1] * 1e-9, expected[2])
            assert info["invalid_action"] == expected[3]
            assert reward == pytest.approx(expected[0], rel=1e-9)
            for part, wanted in zip(observation.values(), reference.observation(), strict=True):
                np.testing.assert_allclose(part, wanted, rtol=1e-6, atol=1e-12)
            if not seed % 2:
                assert np.flatnonzero(info["action_mask"]).tolist() == pair.valid_actions()
                assert (env.action_masks() == info["action_mask"]).all()
        assert info["summary"]["finished"] == len(reference.completed)


def scenario_with_saturation(scenario: Scenario) -> Scenario:
    return Scenario(**{**vars(scenario), "saturation_rps": SATURATION_RPS})


# -- bad input ------------------------------------------------------------------------------------


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
    [*((PICK, action) for action in BAD_PICKS), *((PRIORITY, scores) for scores in BAD_SCORES)],
    ids=repr,
)
def test_a_bad_action_moves_nothing(env_id: str, action: Any) -> None:
    env = small(env_id).unwrapped
    env.reset(seed=0)
    before = state_of(env)
    with pytest.raises(ValueError, match=r"expected.*got|could not convert"):
        env.step(action)
    assert state_of(env) == before


def test_a_step_needs_a_reset(env: gym.Env[Any, Any]) -> None:
    bare = env.unwrapped
    with pytest.raises(gym.error.ResetNeeded):
        bare.step(bare.action_space.sample())
    for ask in (bare.summary, bare.reveal_workload):  # type: ignore[attr-defined]
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
    ({"scenario": "chess"}, r"scenario: expected one of chat-serial, .*; got 'chess'"),
    ({"scenario": 3}, r"scenario: expected one of chat-serial, .*; got 3"),
    *(
        ({"load": load}, r"load: expected a finite number > 0, got")
        for load in (np.nan, np.inf, -0.5, 0.0, "heavy", None, True)
    ),
    ({"load": "recorded"}, r"load: 'recorded' needs a recorded arrival trace"),
    ({"batch_size": SLOTS + 1}, rf"batch_size: expected at most .*\({SLOTS}\), got {SLOTS + 1}"),
    *(
        ({"draft_length": n}, r"draft_length: expected 0\.\.16 or 'smartspec', got")
        for n in (-1, 17, 2.0, "fast", True)
    ),
    *(
        ({name: value}, rf"{name}: expected an integer >= 1, got")
        for name in ("num_requests", "slots", "batch_size", "pool_tokens", "queue_limit")
        for value in (0, -3, 2.5, np.nan)
    ),
    *(
        ({name: value}, rf"{name}: expected a finite number > 0, got")
        for name in ("time_limit_s", "reward_scale")
        for value in (0.0, -1.0, np.nan, np.inf)
    ),
    ({"predictor_error": -0.1}, r"predictor error: expected a finite number >= 0, got -0\.1"),
    ({"predictor_error": np.nan}, r"predictor error: expected a finite number >= 0, got nan"),
    ({"set_tag": "exam"}, r"set tag: expected one of .*, got 'exam'"),
    ({"interface": "wish"}, r"interface: expected 'pick' or 'priority', got 'wish'"),
    ({"render_mode": "human"}, r"render_mode: expected None or 'ansi', got 'human'"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD_ARGUMENTS, ids=lambda value: repr(value)[:40]
)
def test_a_bad_argument_is_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpecDecodeReplay(**{"num_requests": 4, "slots": SLOTS} | arguments)


def test_a_scenario_without_a_measured_saturation_has_no_load() -> None:
    template = get_scenario("chat-serial")
    scenario = Scenario("new", "", template.server, template.bodies, template.arrivals)
    with pytest.raises(ValueError, match=r"saturation_rps of scenario 'new': expected .* got nan"):
        SpecDecodeReplay(scenario=scenario)


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="sots"):
        SpecDecodeReplay(sots=3)
    with pytest.raises(TypeError, match="num_envs"):
        SpecDecodeReplay(num_envs=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worklod": None}, r"reset options: expected only .*; got \['worklod'\]"),
        ({"reset_mask": np.ones(1, bool)}, "reset_mask is for the vector environment"),
        ({"workload": "chat"}, "workload: expected a Workload, got str"),
        ({"workload_seed": -1}, "workload_seed: expected an integer >= 0, got -1"),
        ({"workload_seed": 1.5}, "workload_seed: expected an integer >= 0, got 1.5"),
    ],
)
def test_a_bad_reset_option_changes_nothing(options: dict[str, Any], message: str) -> None:
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


def test_a_request_larger_than_the_pool_is_refused() -> None:
    env = small(pool_tokens=100, draft_length=4).unwrapped
    workload = Workload(
        arrival_ns=np.array([0, 5]),
        prompt_tokens=np.array([10, 60]),
        output_tokens=np.array([4, 36]),
        predicted_tokens=np.array([4.0, 36.0]),
        category=np.array([0, 0]),
        accept_run=np.zeros(40, np.uint8),
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
    workload = _workload(env)
    env.reset(seed=11, options={"workload_seed": 0})
    assert _workload(env).equals(workload)
    other.reset(seed=11, options={"workload": workload})
    assert _workload(other) is workload
    env.reset()
    other.reset()
    assert not _workload(env).equals(workload)
    assert _workload(env).equals(_workload(other))


# -- limits ---------------------------------------------------------------------------------------


def test_truncation_reports_the_unfinished() -> None:
    env = small(num_requests=50, load=5.0, time_limit_s=3.0)
    env.reset(seed=0)
    *_, terminated, truncated, info = play(env, 0)[-1]
    assert (terminated, truncated) == (False, True)
    summary = info["summary"]
    assert summary["makespan_s"] >= 3.0
    assert summary["finished"] < summary["requests"]
    arrived = _workload(env).arrival_ns <= summary["makespan_s"] * 1e9 + 0.5
    assert summary["requests"] == arrived.sum()
    total = summary["return"]
    assert total == pytest.approx(-summary["mean_latency_s"] * summary["requests"])

    env = small(num_requests=50, load=5.0, queue_limit=7)
    env.reset(seed=0)
    observation, _, terminated, truncated, info = play(env, 0)[-1]
    assert (terminated, truncated) == (False, True)
    waiting = observation["queue"][:, OCCUPIED].sum() + observation["server"][5]
    assert waiting == info["summary"]["requests"] - info["summary"]["finished"] > 7


def test_a_time_limit_before_the_first_arrival_truncates_after_one_round() -> None:
    env = small(time_limit_s=1e-9)
    _, info = env.reset(seed=0)
    assert info["action_mask"].any()
    assert [result[3] for result in play(env, 0)][-1]
    assert env.unwrapped.summary()["rounds"] == 1  # type: ignore[attr-defined]
