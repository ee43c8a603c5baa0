"""Measure what training costs, on all cores: steps per second, and a decision of a trained model.

Prints a table and writes bench-agents.json. The adapter stands beside the environment alone under
the same actions. Nothing is asserted: machines differ.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bench import random_valid_actions, run_command

from laps_env import policies
from laps_env.agents.options import PPOOptions, usual_options
from laps_env.agents.ppo import PPOTrainer
from laps_env.agents.vec_env import ReplayVecEnv
from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.policies.networks.pointer import SHAPES, make_spec
from laps_env.workloads.scenarios import get_scenario

SCENARIO, ENVS = "mixed-serial-135m", 256

#: Decisions are timed at this many requests in the table.
CROWD = 32


class Alone:
    """The vector environment under random valid actions."""

    def __init__(self) -> None:
        self.envs = SpecDecodeReplayVectorEnv(
            ENVS, scenario=SCENARIO, num_requests=300, autoreset_mode="SameStep"
        )
        self.envs.reset(seed=0)
        self.rng = np.random.default_rng(0)

    def run(self, steps: int) -> float:
        """Steps of all environments per second."""
        actions = np.zeros(ENVS, np.int64)
        began = time.perf_counter()
        for _ in range(steps):
            masks = self.envs.action_masks()
            random_valid_actions(masks, self.rng.random(ENVS), actions)
            self.step(actions)
        return steps * ENVS / (time.perf_counter() - began)

    def step(self, actions: Any) -> None:
        """One step of all environments."""
        self.envs.step(actions)


class Adapted(Alone):
    """The same through the adapter of stable-baselines3."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter = ReplayVecEnv(self.envs)
        self.adapter.seed(0)
        self.adapter.reset()

    def step(self, actions: Any) -> None:
        """One step of all environments."""
        self.adapter.step_async(actions)
        self.adapter.step_wait()


def adapter_rates(repeats: int) -> tuple[float, float]:
    """Steps per second alone and adapted, taking turns."""
    loops = (Alone(), Adapted())
    for loop in loops:
        loop.run(1000)
    rates = [[loop.run(500) for loop in loops] for _ in range(repeats)]
    alone, adapted = np.median(rates, axis=0).tolist()
    return alone, adapted


def training_rates(repeats: int) -> dict[str, float]:
    """Steps per second of PPO on the pointer network: collection, and with its updates."""
    options = usual_options(PPOOptions, scenario=(SCENARIO,))
    options = replace(options, envs=ENVS, rollouts=1, value_blocks=0, teacher="none")
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(options, Path(folder))
        updates: list[float] = []
        train = trainer.model.train

        def timed() -> None:
            began = time.perf_counter()
            train()
            updates.append(time.perf_counter() - began)

        trainer.model.train = timed  # type: ignore[method-assign]
        trainer.run_block(print)
        whole = []
        for _ in range(repeats):
            began = time.perf_counter()
            trainer.run_block(print)
            whole.append(time.perf_counter() - began)
        trainer.close()
    steps = options.rollout * ENVS
    return {
        "collection_steps_per_s": steps
        / median(w - u for w, u in zip(whole, updates[1:], strict=True)),
        "training_steps_per_s": steps / median(whole),
        "epochs": options.epochs,
        "minibatch": options.minibatch,
    }


def decision_us(name: str | policies.RuleSpec, repeats: int) -> float:
    """Microseconds of `Policy.predict` for one server with `CROWD` requests in its table."""
    scenario = get_scenario(SCENARIO)
    envs = SpecDecodeReplayVectorEnv(1, scenario=scenario, num_requests=CROWD, load=1000.0)
    policy = policies.make(name, scenario)
    observation, _ = envs.reset(seed=0)
    for _ in range(3):  # rounds, until all have arrived
        action, state = policy.predict(observation, None)
        observation, *_ = envs.step(action)
    return time_per_call(lambda: policy.predict(observation, state), repeats) * 1e6


def time_per_call(call: Callable[[], Any], repeats: int, calls: int = 2000) -> float:
    """Seconds, the median of some repeats."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - began) / calls)
    return median(times[1:])


def untrained() -> policies.RuleSpec:
    """A pointer network with arbitrary weights."""
    rng = np.random.default_rng(0)
    return make_spec("pointer", {k: rng.normal(size=shape) for k, shape in SHAPES.items()})


def measure(repeats: int) -> dict[str, Any]:
    """All figures."""
    alone, adapted = adapter_rates(repeats)
    return {
        "environment_steps_per_s": alone,
        "adapter_steps_per_s": adapted,
        "adapter_share": 1 - adapted / alone,
        **training_rates(repeats),
        "decision_us_pointer": decision_us(untrained(), repeats),
        "decision_us_laps_sd": decision_us("laps_sd", repeats),
    }


if __name__ == "__main__":
    run_command(__doc__.splitlines()[0], "bench-agents.json", measure)
