"""What stable-baselines3 and sb3-contrib do with the environments, as they come."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import laps_env  # noqa: F401

pytest.importorskip("torch")
sb3 = pytest.importorskip("stable_baselines3")
contrib = pytest.importorskip("sb3_contrib")

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {"num_requests": 5, "slots": 8}


@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "MaskablePPO"])
def test_algorithms_run_out_of_the_box(algorithm: str) -> None:
    env = gym.make("laps_env/SpecDecodeReplay-v0", **SMALL)
    if algorithm == "DQN":
        model = sb3.DQN("MultiInputPolicy", env, learning_starts=20, buffer_size=500, seed=0)
    else:
        kind = sb3.PPO if algorithm == "PPO" else contrib.MaskablePPO
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
