"""Normalised observations: the stated scales, the same from every door, inside their space."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import laps_env
from laps_env.envs.normalized import (
    SCALES,
    NormalizedObservation,
    NormalizedVectorObservation,
    normalized,
)
from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.sim.observation import (
    CATEGORY,
    FINISH_LEFT_S,
    OCCUPIED,
    PROMPT_TOKENS,
    QUEUE_COLUMNS,
    SERVER_COLUMNS,
    WAITING_S,
)

REPLAY = laps_env.ENV_IDS[0]


def test_the_scales_by_hand() -> None:
    queue = np.zeros((2, len(QUEUE_COLUMNS)), np.float32)
    queue[1, [OCCUPIED, WAITING_S, PROMPT_TOKENS, CATEGORY, FINISH_LEFT_S]] = 1, 1, 99, 4, -0.001
    queue[0, WAITING_S] = 5.0  # of an empty slot, which stays a row of zeros
    scaled = normalized({"queue": queue, "server": np.zeros(8, np.float32)})["queue"]
    assert not scaled[0].any()
    expected = {
        OCCUPIED: 1.0,
        WAITING_S: math.log(1001) / 10,
        PROMPT_TOKENS: math.log(100) / 8,
        CATEGORY: 0.5,
        FINISH_LEFT_S: -math.log(2) / 10,
    }
    for column, value in expected.items():
        assert scaled[1, column] == pytest.approx(value)
    assert np.count_nonzero(scaled[1]) == len(expected)


def test_every_unit_has_a_scale() -> None:
    assert {c.unit for c in (*QUEUE_COLUMNS, *SERVER_COLUMNS)} <= set(SCALES)


def test_gymnasium_checks_a_normalised_environment() -> None:
    env = NormalizedObservation(gym.make(REPLAY, num_requests=5, slots=4).unwrapped)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        check_env(env, skip_render_check=True)
    assert env.action_masks().shape == (5,)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_vector_shows_what_single_environments_do(mode: str) -> None:
    made: dict[str, Any] = {"num_requests": 4, "slots": 4, "scenario": "limits-batch8-8b"}
    made |= {"batch_size": 2, "load": 3.0}
    envs = NormalizedVectorObservation(SpecDecodeReplayVectorEnv(2, autoreset_mode=mode, **made))
    plain = SpecDecodeReplayVectorEnv(2, autoreset_mode=mode, **made)
    seen, info = envs.reset(seed=3)
    raw, _ = plain.reset(seed=3)
    ended = 0
    for _ in range(1500):
        assert envs.observation_space.contains(seen)
        for name, part in normalized(raw).items():
            assert np.array_equal(seen[name], part)
        actions = info["action_mask"].argmax(axis=1)
        seen, _, terminated, _, info = envs.step(actions)
        raw, _, _, _, other = plain.step(actions)
        ended += int(terminated.sum())
        for index in np.flatnonzero(terminated) if mode == "SameStep" else ():
            last = normalized(other["final_obs"][index])
            for name in last:
                assert np.array_equal(info["final_obs"][index][name], last[name])
    assert ended > 2
