"""The adapter for stable-baselines3 gives what its `DummyVecEnv` of single environments gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import laps_env
from laps_env.agents.vec_env import ReplayVecEnv
from laps_env.envs.normalized import NormalizedVectorObservation, normalized
from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.sim.observation import CATEGORY, OCCUPIED

OPTIONS: dict[str, Any] = {"scenario": "mixed-batch8-135m", "num_requests": 12, "slots": 16}


def native(rows: int, **options: Any) -> SpecDecodeReplayVectorEnv:
    return SpecDecodeReplayVectorEnv(rows, autoreset_mode="SameStep", **{**OPTIONS, **options})


def dummy(rows: int, **options: Any) -> DummyVecEnv:
    def make(row: int) -> Callable[[], gym.Env[Any, Any]]:
        return lambda: Monitor(gym.make(laps_env.REPLAY_IDS[0], **{**OPTIONS, **options}))

    return DummyVecEnv([make(row) for row in range(rows)])


def valid_actions(envs: VecEnv, rng: np.random.Generator) -> np.ndarray:
    masks = np.stack(envs.env_method("action_masks"))
    return np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])


def assert_equal(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize(
    "limits", [{}, {"max_episode_steps": 90}, {"queue_limit": 4, "load": 2.0}], ids=str
)
def test_the_adapter_equals_dummy_vec_env(limits: dict[str, Any]) -> None:
    ours, theirs = ReplayVecEnv(native(3, **limits)), dummy(3, **limits)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.seed(7) == theirs.seed(7)
    assert_equal(ours.reset(), theirs.reset())
    rng, ended, truncated = np.random.default_rng(0), 0, 0
    while ended < 8:
        actions = valid_actions(ours, rng)
        np.testing.assert_array_equal(
            np.stack(ours.env_method("action_masks")), np.stack(theirs.env_method("action_masks"))
        )
        (here, reward, done, infos), (there, their_reward, their_done, their_infos) = (
            envs.step(actions) for envs in (ours, theirs)
        )
        assert_equal(here, there)
        np.testing.assert_array_equal(reward, their_reward)
        assert reward.dtype == their_reward.dtype
        np.testing.assert_array_equal(done, their_done)
        for row in range(3):
            info, other = infos[row], their_infos[row]
            assert info if done[row] else not info
            if done[row]:
                assert info["TimeLimit.truncated"] == other["TimeLimit.truncated"]
                ended += 1
                truncated += info["TimeLimit.truncated"]
                assert_equal(info["terminal_observation"], other["terminal_observation"])
                assert info["episode"]["l"] == other["episode"]["l"]
                assert info["episode"]["r"] == pytest.approx(other["episode"]["r"], abs=1e-4)
                np.testing.assert_equal(info["summary"], other["summary"])
    assert truncated == (ended if limits else 0)


def test_groups_are_rows_below_rows_with_their_categories_apart() -> None:
    loads, starts = (0.5, 1.5), [0, 7]
    joined: Any = ReplayVecEnv(*(native(2, load=load) for load in loads), first_category=starts)
    alone: list[Any] = [ReplayVecEnv(native(2, load=load)) for load in loads]
    joined.seed(3)
    for k, envs in enumerate(alone):
        envs.seed(3 + 2 * k)
    together, apart = joined.reset(), [envs.reset() for envs in alone]
    rng, seen = np.random.default_rng(0), set()
    for _ in range(300):
        for k, (observation, start) in enumerate(zip(apart, starts, strict=True)):
            queue = observation["queue"].copy()
            queue[:, :, CATEGORY] += start * queue[:, :, OCCUPIED]
            rows = slice(2 * k, 2 * k + 2)
            np.testing.assert_array_equal(together["queue"][rows], queue)
            np.testing.assert_array_equal(together["server"][rows], observation["server"])
            seen |= set(queue[queue[:, :, OCCUPIED] == 1][:, CATEGORY].tolist())
        actions = valid_actions(joined, rng)
        together, *_ = joined.step(actions)
        apart = [envs.step(own)[0] for envs, own in zip(alone, np.split(actions, 2), strict=True)]
    assert max(seen) > 7 > min(seen)


def test_arrays_are_fresh() -> None:
    envs: Any = ReplayVecEnv(native(2))
    envs.seed(0)
    first = envs.reset()
    before = {name: part.copy() for name, part in first.items()}
    second, reward, *_ = envs.step(valid_actions(envs, np.random.default_rng(0)))
    assert_equal(first, before)
    kept = reward.copy()
    third, *_ = envs.step(valid_actions(envs, np.random.default_rng(0)))
    np.testing.assert_array_equal(reward, kept)
    assert not any(np.shares_memory(second[name], third[name]) for name in second)


def test_infos_may_be_written_into() -> None:
    envs = ReplayVecEnv(native(2))
    envs.seed(0)
    envs.reset()
    rng = np.random.default_rng(0)
    for _ in range(2):
        *_, infos = envs.step(valid_actions(envs, rng))
        assert infos == [{}, {}]
        infos[0]["mine"] = 1


def test_render_shows_every_server() -> None:
    pytest.importorskip("pygame")
    shown = {"render_mode": "rgb_array"}
    envs = ReplayVecEnv(native(1, **shown), native(1, load=2.0, **shown))
    envs.seed(0)
    envs.reset()
    images = envs.get_images()
    assert [image.shape for image in images] == [(640, 960, 3)] * 2
    tiled: Any = envs.render()
    assert tiled.shape == (1280, 960, 3)
    assert (tiled[:640] != tiled[640:]).any()
    texts = ReplayVecEnv(native(2, render_mode="ansi"))
    texts.reset()
    assert [type(text) for text in texts.env_method("render")] == [str, str]


def test_bad_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"autoreset_mode: expected AutoresetMode\.SAME_STEP"):
        ReplayVecEnv(SpecDecodeReplayVectorEnv(2, **OPTIONS))
    with pytest.raises(ValueError, match="groups: expected the same action space"):
        ReplayVecEnv(native(2), native(2, slots=9))


def test_options_count_once_and_are_the_same_for_all() -> None:
    envs = ReplayVecEnv(native(2))
    envs.seed(0)
    envs.set_options({"workload_seed": 5})
    same = envs.reset()
    np.testing.assert_array_equal(same["queue"][0], same["queue"][1])
    envs.seed(0)
    apart = envs.reset()
    assert (apart["queue"][0] != apart["queue"][1]).any()
    envs.set_options([{"workload_seed": 5}, {}])
    with pytest.raises(ValueError, match="options: expected the same for all environments"):
        envs.reset()


# -- action repeat --------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["chat-serial-8b", "pressure-batch8-135m"])
def test_repeated_rounds_are_decided_less_often_and_lose_nothing(scenario: str) -> None:
    """The return is minus the summed latency, and time adds up, however few the decisions are."""
    from laps_env.agents.action_repeat import ActionRepeat

    steps: dict[int, int] = {}
    options: dict[str, Any] = {"scenario": scenario, "num_requests": 12, "slots": 16, "load": 1.5}
    for rounds in (1, 10):
        envs = ActionRepeat(2, rounds=rounds, **options)
        _, info = envs.reset(seed=0)
        began = envs.simulation.state.servers["now"].copy()
        ended, total, time_s = np.zeros(2, bool), np.zeros(2), np.zeros(2)
        count = 0
        while not ended.all():
            _, reward, terminated, _, info = envs.step(info["action_mask"].argmax(axis=1))
            assert not envs.simulation.state.servers["picked"][info["round"]].any()
            total += reward * ~ended
            time_s += info["dt"] * ~ended
            for row in np.flatnonzero(terminated & ~ended):
                summary = {name: column[row] for name, column in info["summary"].items()}
                assert total[row] == pytest.approx(-12 * summary["mean_latency_s"])
                now = envs.simulation.state.servers["now"][row]
                assert time_s[row] == pytest.approx((now - began[row]) * 1e-9)
            ended |= terminated
            count += 1
        steps[rounds] = count
    assert steps[10] < steps[1] / 3


def test_decisions_may_stand_for_a_time_instead() -> None:
    """A step ends with its first round beyond, however long rounds are, if nobody comes or goes."""
    from laps_env.agents.action_repeat import ActionRepeat

    with pytest.raises(ValueError, match="seconds: expected a number > 0, got 0"):
        ActionRepeat(1, rounds=1, seconds=0, **OPTIONS)
    means = []
    for draft_length in (0, 8):
        options = {**OPTIONS, "draft_length": draft_length, "num_requests": 1}
        envs = ActionRepeat(4, rounds=10_000, seconds=0.2, **options)
        _, info = envs.reset(seed=0)
        steps = [envs.step(info["action_mask"].argmax(axis=1))[-1]["dt"] for _ in range(3)]
        assert (np.array(steps) >= 0.2).all()
        means.append(np.mean(steps))
    assert means[0] == pytest.approx(means[1], rel=0.3)


def test_rounds_repeated_once_are_the_environment() -> None:
    from laps_env.agents.action_repeat import ActionRepeat

    options: dict[str, Any] = {**OPTIONS, "num_requests": 20}
    repeated = ActionRepeat(3, rounds=1, **options)
    plain = SpecDecodeReplayVectorEnv(3, **options)
    (one, info), (other, _) = repeated.reset(seed=1), plain.reset(seed=1)
    for _ in range(500):
        actions = info["action_mask"].argmax(axis=1)
        one, reward, *_, info = repeated.step(actions)
        other, expected, *_ = plain.step(actions)
        np.testing.assert_array_equal(one["queue"], other["queue"])
        np.testing.assert_array_equal(reward, expected)


def test_scaled_servers_are_the_same_servers() -> None:
    made: dict[str, Any] = {"num_requests": 3, "slots": 4, "autoreset_mode": "SameStep"}
    plain = ReplayVecEnv(SpecDecodeReplayVectorEnv(2, **made))
    scaled = ReplayVecEnv(NormalizedVectorObservation(SpecDecodeReplayVectorEnv(2, **made)))
    for venv in (plain, scaled):
        venv.seed(5)
    raw: Any = plain.reset()
    seen: Any = scaled.reset()
    last = 0
    for _ in range(2000):
        for name, part in normalized(raw).items():
            assert np.array_equal(seen[name], part)
        actions = np.array([mask.argmax() for mask in scaled.env_method("action_masks")])
        (raw, _, done, infos), (seen, _, _, others) = plain.step(actions), scaled.step(actions)
        for index in np.flatnonzero(done):
            final = normalized(infos[index]["terminal_observation"])
            assert np.array_equal(others[index]["terminal_observation"]["queue"], final["queue"])
            assert others[index]["summary"] == infos[index]["summary"]
            last += 1
    assert last > 2
