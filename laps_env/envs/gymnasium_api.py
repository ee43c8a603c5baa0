"""What Gymnasium does to an environment without telling it."""

from __future__ import annotations

import inspect

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from laps_env.sim.simulation import UNLIMITED

#: Before it, `RecordEpisodeStatistics` takes the first step of every episode for a reset.
_COUNTS_SAME_STEP = (1, 4)


def step_limit_of_make() -> int:
    """``max_episode_steps`` of the `gymnasium.make` that is making an environment right now.

    Gymnasium keeps it for its own wrapper `TimeLimit`. An environment that does not know it ends
    without a summary.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not gym.make.__code__:
        frame = frame.f_back
    if frame is None:
        return UNLIMITED
    limit = frame.f_locals["max_episode_steps"]
    if limit is None:
        limit = frame.f_locals["env_spec"].max_episode_steps
    return limit if isinstance(limit, int) and limit > 0 else UNLIMITED


def as_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Autoreset mode by its name (or as it is).

    Raises:
        ValueError: The name is unknown, or this Gymnasium miscounts episodes in that mode.
    """
    mode = AutoresetMode(mode)
    version = tuple(map(int, gym.__version__.split(".")[:2]))
    if mode == AutoresetMode.SAME_STEP and version < _COUNTS_SAME_STEP:
        raise ValueError(
            "autoreset_mode: expected Gymnasium 1.4 or newer for SameStep, whose "
            f"RecordEpisodeStatistics miscounts in older ones, got {gym.__version__}"
        )
    return mode
