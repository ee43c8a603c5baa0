"""Every registered id is a Gymnasium environment that also stable-baselines3 accepts."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from env_play import SCORES, SEQUENTIAL, arguments, play, small, workload_of
from gymnasium.utils.env_checker import check_env, data_equivalence
from kernel_pairs import REWARD_SCALE, SATURATION_RPS, Pair

import laps_env
from laps_env.envs.options import EnvOptions
from laps_env.envs.replay import SpecDecodeReplay
from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.sim.observation import OCCUPIED
from laps_env.utils.splits import Split
from laps_env.workloads.scenarios import DEFAULT_SCENARIO, Scenario, get_scenario

# What the checkers say of a design that stays: quantities without a natural bound are documented
# as unbounded, and the request table is a table.
#: The queue is a table by design; SB3 advises to flatten it and works with it as it is.
ACCEPTED_WARNINGS = ("unconventional shape",)


@pytest.fixture(params=laps_env.ENV_IDS)
def env(request: pytest.FixtureRequest) -> Iterator[gym.Env[Any, Any]]:
    """Each environment, small, with the wrappers of `gym.make`."""
    made = gym.make(request.param, **arguments(request.param))
    yield made
    made.close()


@pytest.fixture(params=laps_env.REPLAY_IDS)
def replay(request: pytest.FixtureRequest) -> Iterator[gym.Env[Any, Any]]:
    """The deterministic ones, whose workload is known from the start."""
    made = gym.make(request.param, **arguments(request.param))
    yield made
    made.close()


def test_the_checkers_pass(env: gym.Env[Any, Any]) -> None:
    from stable_baselines3.common.env_checker import check_env as check_env_sb3

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
        check_env_sb3(env.unwrapped, skip_render_check=False)
    messages = [str(warning.message) for warning in caught]
    assert [m for m in messages if not any(known in m for known in ACCEPTED_WARNINGS)] == []


def test_the_id_names_its_module() -> None:
    assert isinstance(gym.make(f"laps_env:{SEQUENTIAL}").unwrapped, SpecDecodeReplay)


def test_the_default_is_mixed_serial_8b_with_64_slots() -> None:
    env = gym.make(SEQUENTIAL)
    assert env.action_space == gym.spaces.Discrete(65)
    assert env.unwrapped.options.get_scenario() is get_scenario("mixed-serial-8b")  # type: ignore[attr-defined]
    assert gym.make(SCORES).action_space.shape == (64,)


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
    assert all(type(value) is float for name, value in summary.items() if name != "texts")
    total = sum(reward for _, reward, *_ in results)
    assert summary["return"] == pytest.approx(total)
    assert total == pytest.approx(-summary["mean_latency_s"] * summary["requests"])
    assert summary["finished"] == summary["requests"] == 4
    assert summary["makespan_s"] >= sum(info["dt"] for *_, info in results)
    again = env.unwrapped.summary()  # type: ignore[attr-defined]
    assert summary == again


def test_seeds(replay: gym.Env[Any, Any]) -> None:
    def episode(seed: int | None) -> list[Any]:
        return [replay.reset(seed=seed), *play(replay, 1)]

    first, second = episode(7), episode(None)
    assert not data_equivalence(first[-1], second[-1])  # without a seed the next episode follows
    assert data_equivalence(episode(7), first, exact=True)
    assert data_equivalence(episode(None), second, exact=True)
    assert not data_equivalence(episode(8)[-1], first[-1])
    other = gym.make(replay.spec)  # type: ignore[arg-type]
    assert data_equivalence([other.reset(seed=7), *play(other, 1)], first, exact=True)


def test_unseeded_environments_differ(env: gym.Env[Any, Any]) -> None:
    other = gym.make(env.spec)  # type: ignore[arg-type]
    env.reset()
    other.reset()
    assert not workload_of(env).equals(workload_of(other))


def test_an_episode_leaves_its_workload_as_it_was(replay: gym.Env[Any, Any]) -> None:
    """So that two policies under one seed meet the same arrivals, lengths and acceptances."""
    replay.reset(seed=3)
    workload = copy.deepcopy(workload_of(replay))
    play(replay, 1)
    assert workload_of(replay).equals(workload)
    replay.reset(seed=3)
    play(replay, 2)
    assert workload_of(replay).equals(workload)


def test_copies_go_on_alike_and_apart(replay: gym.Env[Any, Any]) -> None:
    replay.reset(seed=2)
    play(replay, 1, steps=3)
    copies = [copy.deepcopy(replay.unwrapped), pickle.loads(pickle.dumps(replay.unwrapped))]  # noqa: S301
    ends = [play(e, 4) for e in (*copies, replay)]
    assert data_equivalence(ends[0], ends[2], exact=True)
    assert data_equivalence(ends[1], ends[2], exact=True)


def test_ansi_rendering(replay: gym.Env[Any, Any]) -> None:
    observation, _ = replay.reset(seed=0)
    play(replay, 1, steps=3)
    observation = replay.step(replay.action_space.sample())[0]
    text = replay.render()
    assert isinstance(text, str)
    assert text.count("\n") == 1 + observation["queue"][:, OCCUPIED].sum()
    assert small(replay.spec.id).unwrapped.render() is None  # type: ignore[union-attr]


def test_the_environment_equals_the_reference() -> None:
    """Through the public face, with the rewards and the infos that an agent gets."""
    for seed in range(40):
        rng = np.random.default_rng([seed, 9])
        pair = Pair.random(rng)
        reference, server = pair.reference, pair.simulation.server
        template = get_scenario("chat-serial-8b")
        scenario = Scenario("random", "", server, template.requests, template.arrivals)
        limit, queue_limit = reference.time_limit_ns, reference.queue_limit
        env = SpecDecodeReplay(
            scenario=scenario_with_saturation(scenario),
            slots=pair.slots,
            reward_scale=REWARD_SCALE,
            time_limit_s=None if limit is None else limit * 1e-9,
            queue_limit=queue_limit,
            interface="scores" if seed % 2 else "sequential",
        )
        env.reset(options={"workload": pair.workload})
        while not pair.ended:
            if seed % 2:
                scores = rng.uniform(-1, 1, size=pair.slots)
                expected = reference.step_priorities(list(-scores))
                result = env.step(scores)
            else:
                action = int(
                    rng.choice(np.append(pair.valid_actions(), rng.integers(pair.slots + 1)))
                )
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
    return replace(scenario, saturation_rps=dict.fromkeys(Split, SATURATION_RPS))


def test_truncation_reports_the_unfinished() -> None:
    env = small(num_requests=50, load=5.0, time_limit_s=3.0)
    env.reset(seed=0)
    *_, terminated, truncated, info = play(env, 0)[-1]
    assert (terminated, truncated) == (False, True)
    summary = info["summary"]
    assert summary["makespan_s"] >= 3.0
    assert summary["finished"] < summary["requests"]
    since_first = workload_of(env).arrival_ns - workload_of(env).arrival_ns[0]
    assert summary["requests"] == (since_first <= summary["makespan_s"] * 1e9 + 0.5).sum()
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


def test_every_default_is_in_the_signature() -> None:
    """For editors and `inspect`; the vector environment has the same ones."""
    single = inspect.signature(SpecDecodeReplay.__init__).parameters
    vector = inspect.signature(SpecDecodeReplayVectorEnv.__init__).parameters
    assert single["scenario"].default == DEFAULT_SCENARIO
    options = {field.name for field in fields(EnvOptions)}
    assert options <= single.keys()
    for name in options:
        assert single[name].default == vector[name].default, name
    kinds = {p.kind for name, p in [*single.items(), *vector.items()] if name in options}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_the_live_environment_has_the_defaults_of_the_replay() -> None:
    live = pytest.importorskip("laps_env.live.env").SpecDecodeLive
    found = inspect.signature(live.__init__).parameters
    assert found["scenario"].default == "demo"
    replayed = inspect.signature(SpecDecodeReplay.__init__).parameters
    # Nobody knows the true length there, so predictions have no error to set.
    for name in replayed.keys() - {"self", "scenario", "predictor_error"}:
        assert found[name].default == replayed[name].default, name


def test_an_invalid_action_may_cost_more_or_be_refused() -> None:
    made: dict[str, Any] = {"num_requests": 3, "slots": 4, "reward_scale": 2.0}
    plain, dearer, strict = (
        gym.make(SEQUENTIAL, on_invalid=mode, **made)
        for mode in ("serve_first", "penalty", "error")
    )
    for env in (plain, dearer, strict):
        _, info = env.reset(seed=0)
    masked = int(info["action_mask"].argmin())
    _, earned, *_, info = plain.step(masked)
    base = float(earned)
    assert info["invalid_action"]
    assert dearer.step(masked)[1] == base - 0.5  # 1 more, in units of 2
    with pytest.raises(ValueError, match=rf"got {masked} in environment 0"):
        strict.step(masked)
    valid = int(info["action_mask"].argmax())
    assert strict.step(valid)[1] == base  # nothing had moved
    assert dearer.step(valid)[1] == plain.step(valid)[1]
    with pytest.raises(ValueError, match="on_invalid: expected one of serve_first, penalty, err"):
        gym.make(SEQUENTIAL, on_invalid="ignore")
