"""How an episode ends, in both faces, and what is there for loops and wrappers at its end."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from env_play import SEQUENTIAL, play, small
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import laps_env
from laps_env.envs.replay import SpecDecodeReplay
from laps_env.envs.vector import SpecDecodeReplayVectorEnv

SMALL: dict[str, Any] = {"num_requests": 3, "slots": 6, "batch_size": 2, "load": 4.0}


@pytest.mark.parametrize("env_id", laps_env.REPLAY_IDS)
def test_an_episode_that_gym_make_cuts_short_has_a_summary(env_id: str) -> None:
    for _ in range(2):  # also made again from its specification
        env = gym.make(env_id, max_episode_steps=20, num_requests=50)
        env.reset(seed=0)
        results = play(env, 0)
        assert len(results) == 20
        *_, terminated, truncated, info = results[-1]
        assert (terminated, truncated) == (False, True)
        assert info["summary"]["return"] == pytest.approx(sum(result[1] for result in results))
        assert env.spec is not None
        env_id = env.spec  # type: ignore[assignment]
    envs = gym.make_vec(env_id, 2, "sync", max_episode_steps=5, num_requests=50)
    envs.reset(seed=0)
    for _ in range(5):
        *_, truncated, info = envs.step(envs.action_space.sample())
    assert truncated.all()
    assert info["_summary"].all()


def test_a_step_limit_of_another_environment_is_not_ours() -> None:
    gym.make(SEQUENTIAL, max_episode_steps=3)
    env = SpecDecodeReplay(**SMALL)
    env.reset(seed=0)
    assert len(play(env, 0)) > 3


def test_monitor_takes_the_summary_of_an_episode_cut_short() -> None:
    monitor = pytest.importorskip("stable_baselines3.common.monitor")
    env = monitor.Monitor(
        gym.make(SEQUENTIAL, max_episode_steps=20, num_requests=50), info_keywords=("summary",)
    )
    env.reset(seed=0)
    info = play(env, 0)[-1][-1]
    assert info["episode"]["summary"]["return"] == pytest.approx(info["episode"]["r"], abs=1e-5)


@pytest.mark.parametrize("limits", [{}, {"time_limit_s": 1.0}, {"queue_limit": 1}], ids=str)
def test_a_mask_is_never_empty(limits: dict[str, Any]) -> None:
    env = small(**SMALL | limits)
    _, info = env.reset(seed=0)
    masks = [info["action_mask"], *(result[-1]["action_mask"] for result in play(env, 0))]
    assert all(mask.any() for mask in masks)
    if not limits:  # nobody is left to pick
        assert np.flatnonzero(masks[-1]).tolist() == [SMALL["slots"]]


def test_a_masked_loop_of_one_s_own_runs_past_the_ends_of_episodes() -> None:
    """As people write it: a distribution over what the mask leaves, in every step."""
    torch = pytest.importorskip("torch")
    envs = gym.make_vec(SEQUENTIAL, num_envs=2, **SMALL)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    torch.manual_seed(0)
    _, info = envs.reset(seed=0)
    ended = np.zeros(2, int)
    while (ended < 3).any():
        mask = torch.from_numpy(info["action_mask"].astype(bool))
        logits = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
        actions = torch.distributions.Categorical(logits=logits).sample().numpy()
        *_, terminated, truncated, info = envs.step(actions)
        assert not info["invalid_action"].any()
        ended += terminated | truncated


def test_gymnasium_counts_episodes_that_restart_in_the_same_step() -> None:
    envs = RecordEpisodeStatistics(
        SpecDecodeReplayVectorEnv(2, autoreset_mode="SameStep", **SMALL)  # type: ignore[arg-type]
    )
    envs.reset(seed=0)
    counted = 0
    while counted < 12:
        *_, terminated, truncated, info = envs.step(envs.action_space.sample())
        for index in np.flatnonzero(terminated | truncated):
            counted += 1
            expected = info["final_info"]["summary"]["return"][index]
            assert info["episode"]["r"][index] == pytest.approx(expected)


def test_a_gymnasium_that_miscounts_them_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "__version__", "1.3.2")
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED):
        SpecDecodeReplayVectorEnv(1, autoreset_mode=mode, **SMALL)
    with pytest.raises(ValueError, match=r"autoreset_mode: expected Gymnasium 1\.4 .* got 1\.3\.2"):
        SpecDecodeReplayVectorEnv(1, autoreset_mode="SameStep", **SMALL)


def test_the_time_limit_counts_from_the_first_arrival() -> None:
    env = SpecDecodeReplay(time_limit_s=1.0)
    env.reset(seed=0)
    assert env.workload().arrival_ns[0] > 1e9
    *before, last = (result[-1]["dt"] for result in play(env, 0))
    assert sum(before) < 1.0 <= sum(before) + last
