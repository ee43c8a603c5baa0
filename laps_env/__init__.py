"""Scheduling speculative-decoding requests: Gymnasium environments and their evaluation."""

from importlib.metadata import version

import gymnasium as gym

__version__ = version("laps-env")

#: The replay server: picked for one by one, scored whole rounds at a time, or picked for with
#: draft lengths.
REPLAY_IDS = (
    "laps_env/SpecDecodeReplay-v0",
    "laps_env/SpecDecodeReplayScores-v0",
    "laps_env/SpecDecodeReplayDrafts-v0",
)
#: Real models behind the same table (extra ``live``).
LIVE_ID = "laps_env/SpecDecodeLive-v0"
#: Every environment that this package registers.
ENV_IDS = (*REPLAY_IDS, LIVE_ID)


def _register() -> None:
    for env_id, interface in zip(REPLAY_IDS, ("sequential", "scores", "drafts"), strict=True):
        if env_id not in gym.registry:
            gym.register(
                id=env_id,
                entry_point="laps_env.envs.replay:SpecDecodeReplay",
                vector_entry_point="laps_env.envs.vector:SpecDecodeReplayVectorEnv",
                kwargs={"interface": interface},
            )
    if LIVE_ID not in gym.registry:
        gym.register(
            id=LIVE_ID, entry_point="laps_env.live.env:SpecDecodeLive", nondeterministic=True
        )


_register()
