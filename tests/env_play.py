"""Small environments, and random play in them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import laps_env
from laps_env.policies import ARRIVAL_NUMBER, ROUNDS, Policy, RuleSpec, rule
from laps_env.sim.draft_length import POLICY
from laps_env.workloads import Workload

SEQUENTIAL, SCORES, DRAFTS = laps_env.REPLAY_IDS
SLOTS = 6


@rule
def moody(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Last come first served; lengths and thresholds that differ by request and round."""
    memory[0] = (row[ROUNDS] + row[ARRIVAL_NUMBER]) % 7
    memory[1] = row[ARRIVAL_NUMBER] % 4 / 4
    return -row[ARRIVAL_NUMBER]


MOODY = Policy(
    "moody",
    RuleSpec("moody", "asks for all kinds of drafts", moody, cells=2, drafts=True),
    {},
    np.zeros(0),
    draft_length="policy",
)


def arguments(env_id: str) -> dict[str, Any]:
    """What a small environment of this id is made with."""
    common = {"num_requests": 4, "slots": SLOTS, "batch_size": 2, "render_mode": "ansi"}
    if env_id != laps_env.LIVE_ID:
        return common
    pytest.importorskip("transformers")
    from tiny_models import tiny_pair

    # by the cost model the live server is as deterministic as the replay
    return common | {"target": tiny_pair(), "max_new_tokens": 12, "clock": "calibrated"}


def small(env_id: str = SEQUENTIAL, **kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make(env_id, **{"num_requests": 4, "slots": SLOTS, "batch_size": 2} | kwargs)


def play(env: gym.Env[Any, Any], seed: int, steps: int = 10**6) -> list[Any]:
    """What `step` returned under random actions, to the episode's end."""
    env.action_space.seed(seed)
    results: list[Any] = []
    while len(results) < steps and not (results and (results[-1][2] or results[-1][3])):
        results.append(env.step(env.action_space.sample()))
    return results


def follow(policy: Any, env: Any, options: dict[str, Any]) -> list[Any]:
    """Everything that an episode shows, with a policy and the drafts that it asks."""
    observation, info = env.reset(seed=3, options=options)
    seen: list[Any] = [observation]
    bare = env.unwrapped
    asks = bare.options.server.draft_length == POLICY
    state, ended = None, False
    while not ended:
        action, state = policy.predict(observation, state)
        if asks:
            longest, threshold = policy.asked(state, bare.options.slots)
            bare.ask_drafts(longest[0], threshold[0])
        observation, reward, terminated, truncated, info = env.step(action)
        seen += [observation, reward, terminated, truncated, info["dt"], info.get("action_mask")]
        ended = terminated or truncated
    return [*seen, info["summary"]]


def workload_of(env: gym.Env[Any, Any]) -> Workload:
    return env.unwrapped.workload()  # type: ignore[attr-defined, no-any-return]
