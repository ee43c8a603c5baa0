"""An episode of a policy, for its timeline."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

import laps_env
import policies
from laps_env.timeline.recorder import Timeline, TimelineRecorder


def record_policy(name: str, seed: int, **options: Any) -> Timeline:
    """The timeline of a policy on the workload of a seed.

    Args:
        name: of `policies.make`.
        seed: of the workload.
        **options: of the environment (`laps_env.env.SpecDecodeReplay`).

    Raises:
        ValueError: an unknown policy or an option out of range.
    """
    env = TimelineRecorder(gym.make(laps_env.REPLAY_IDS[0], **options), name)
    inner: Any = env.unwrapped
    observation, _ = env.reset(options={"workload_seed": seed})
    error = inner.options.predictor_error
    policy = policies.make(name, inner.options.get_scenario(), predictor_error=error)
    if policy.spec.clairvoyant:
        policy = policy.knowing(inner.reveal_workload(), inner.options.server)
    state, over = None, False
    while not over:
        action, state = policy.predict(observation, state)
        observation, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
    assert env.timeline is not None  # it was reset
    return env.timeline
