"""What stable-baselines3 and sb3-contrib do with the environments, as they come."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")

import sb3_contrib as contrib
import stable_baselines3 as sb3
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import laps_env
from laps_env import policies
from laps_env.agents.vec_env import ReplayVecEnv
from laps_env.envs.vector import SpecDecodeReplayVectorEnv

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {"num_requests": 5, "slots": 8}


@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "MaskablePPO"])
def test_algorithms_run_out_of_the_box(algorithm: str) -> None:
    env = gym.make("laps_env/SpecDecodeReplay-v0", **SMALL)
    model: Any
    if algorithm == "DQN":
        model = sb3.DQN("MultiInputPolicy", env, learning_starts=20, buffer_size=500, seed=0)
    else:
        kind: Any = sb3.PPO if algorithm == "PPO" else contrib.MaskablePPO
        model = kind("MultiInputPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=0)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(128)
    after = list(model.policy.parameters())
    assert any(not old.equal(new) for old, new in zip(before, after, strict=True))
    observation, info = env.reset(seed=3)
    ended = False
    while not ended:
        masks = {"action_masks": info["action_mask"]} if algorithm == "MaskablePPO" else {}
        action, _ = model.predict(observation, deterministic=True, **masks)
        if not masks and not info["action_mask"][action]:
            action = np.int64(np.flatnonzero(info["action_mask"])[0])
        observation, _, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
    assert info["summary"]["finished"] == 5


def vec_env(kind: str) -> VecEnv:
    if kind == "native":
        envs: VecEnv = ReplayVecEnv(
            SpecDecodeReplayVectorEnv(2, autoreset_mode="SameStep", **SMALL)
        )
    else:
        envs = DummyVecEnv([lambda: Monitor(gym.make(laps_env.REPLAY_IDS[0], **SMALL))] * 2)
    envs.seed(0)
    return envs


@pytest.mark.parametrize("kind", ["native", "dummy"])
def test_a_rule_is_evaluated_as_a_model_is(kind: str) -> None:
    """By either library; one drops the state, which a rule with memory notices."""
    fcfs: Any = policies.make("fcfs", "mixed-serial-8b")
    laps_sd: Any = policies.make("laps_sd", "mixed-serial-8b")
    ended: list[float] = []

    def note(local: dict[str, Any], _: Any) -> None:
        if local["done"]:
            ended.append(local["info"]["summary"]["return"])

    expected = evaluate_policy(fcfs, vec_env(kind), 4, callback=note)
    assert expected[0] == pytest.approx(np.mean(ended), abs=1e-4)
    for masking in (True, False):
        assert evaluate_masked(fcfs, vec_env(kind), 4, use_masking=masking) == expected
    expected = evaluate_policy(laps_sd, vec_env(kind), 4)
    assert evaluate_masked(laps_sd, vec_env(kind), 4, use_masking=False) == expected
    with pytest.raises(ValueError, match=r"expected the state .* use_masking=False"):
        evaluate_masked(laps_sd, vec_env(kind), 4)
