"""Scheduling speculative-decoding requests: Gymnasium environments and their evaluation."""

from importlib.metadata import version

import gymnasium as gym

__version__ = version("laps-env")

#: Every environment that this package registers.
ENV_IDS = ("laps_env/SpecDecodeReplay-v0", "laps_env/SpecDecodeReplayPriority-v0")


def _register() -> None:
    for env_id, interface in zip(ENV_IDS, ("pick", "priority"), strict=True):
        if env_id not in gym.registry:
            gym.register(
                id=env_id,
                entry_point="laps_env.env:SpecDecodeReplay",
                vector_entry_point="laps_env.vector_env:SpecDecodeReplayVectorEnv",
                kwargs={"interface": interface},
            )


_register()
