"""PPO of Ray's RLlib on the replay; it needs no code of ours but this.

RLlib pins its own versions of gymnasium and others, so give it an environment of its own:

    python -m venv rllib && rllib/bin/pip install torch 'ray[rllib]>=2.40' .
    rllib/bin/python scripts/rllib_example.py --iterations 3
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

import laps_env


def make(config: dict[str, Any]) -> gym.Env[Any, Any]:
    """The replay; RLlib's networks take flat observations."""
    env = gym.make(laps_env.ENV_IDS[0], **config)
    return gym.wrappers.FlattenObservation(env)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--runners", type=int, default=0, help="processes; 0: in this one")
    given = parser.parse_args()
    register_env("laps_env", make)
    config = (
        PPOConfig()
        .environment("laps_env", env_config={"num_requests": 5, "slots": 16})
        .env_runners(num_env_runners=given.runners, num_envs_per_env_runner=4)
        # gamma 1: the picks of one round share an instant
        .training(gamma=1.0, train_batch_size_per_learner=8000, minibatch_size=500, num_epochs=2)
    )
    algorithm = config.build_algo()
    for iteration in range(given.iterations):
        reached = algorithm.train()["env_runners"]["episode_return_mean"]
        print(f"iteration {iteration}: mean return {reached:.0f}", flush=True)
    algorithm.stop()


if __name__ == "__main__":
    main()
