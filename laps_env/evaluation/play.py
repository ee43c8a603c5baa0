"""A policy plays an episode of an environment, step by step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from laps_env.policies import Policy


def play(policy: Policy, env: gym.Env[Any, Any], **reset: Any) -> dict[str, Any]:
    """The last ``info`` of an episode.

    Args:
        policy: a clairvoyant one is told the workload.
        env: any of this package.
        **reset: arguments of its reset.
    """
    observation, info = env.reset(**reset)
    if policy.spec.clairvoyant:
        inner: Any = env.unwrapped
        policy = policy.with_oracle(inner.workload(), inner.options.server)
    state, ended = None, False
    while not ended:
        action, state = policy.predict(observation, state)
        observation, _, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
    return info
