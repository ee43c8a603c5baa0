"""`PPOTrainer`: MaskablePPO on a mix of scenarios, block by block.

A run is a sequence of blocks. Each begins with fresh episodes and random numbers that depend on the
run's seed and the block's number alone, and ends with a checkpoint (`laps_env.agents.checkpoint`);
so a run that was killed ends where the unbroken one would, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.logger import configure

from laps_env import policies
from laps_env.agents.action_repeat import ActionRepeat
from laps_env.agents.buffer import Clock, TimeDiscountedBuffer
from laps_env.agents.imitation import Teacher, imitate
from laps_env.agents.options import PPOOptions
from laps_env.agents.queue_policy import QueuePolicy
from laps_env.agents.relative import RelativeReward
from laps_env.agents.vec_env import ReplayVecEnv
from laps_env.evaluation.grid import REFERENCE
from laps_env.policies.base.traffic_model import Floats, fit_traffic_model
from laps_env.policies.gittins import INDEX_SIZE, index_tables

#: Seeds of blocks lie so far apart that environments of different blocks share no workload.
SEED_STRIDE = 2**20


def groups_of(options: PPOOptions) -> list[ActionRepeat]:
    """A vector environment per scenario, predictor error and load."""
    cells = list(product(options.sources(), options.loads))
    return [
        ActionRepeat(
            options.envs // len(cells),
            rounds=options.action_repeat,
            scenario=scenario,
            load=load,
            num_requests=options.num_requests,
            slots=options.slots,
            predictor_error=error,
            reward_scale=options.horizon * scenario.mean_gap_s(load, "train"),
            autoreset_mode="SameStep",
        )
        for (scenario, error), load in cells
    ]


def law_table(options: PPOOptions) -> tuple[Floats, list[int]]:
    """Constants per category of all traffic [K, C], and where each vector environment's begin."""
    tables = [
        index_tables(fit_traffic_model(scenario, error)).reshape(-1, INDEX_SIZE)
        for scenario, error in options.sources()
    ]
    starts = np.cumsum([0, *map(len, tables[:-1])]).tolist()
    return np.concatenate(tables), [start for start in starts for _ in options.loads]


class PPOTrainer:
    """Trains a queue policy, block by block; its logs go to the folder of the run."""

    def __init__(self, options: PPOOptions, folder: Path) -> None:
        self.options, self.folder = options, folder
        laws, self.first_category = law_table(options)
        self.venv = ReplayVecEnv(*groups_of(options), first_category=self.first_category)
        rewards = RelativeReward(self.venv, lambda scenario: policies.make(REFERENCE, scenario))
        self._loads = [float(envs.options.load) for envs in self.venv.groups]
        # Rewards in horizons keep values of order one: gradients of scorer and valuer are clipped
        # together, and a large one of the latter would leave nothing of the former.
        scale = np.array(self.venv.per_env(lambda envs: envs.options.reward_scale))
        self._rewards = rewards
        self.model = MaskablePPO(
            QueuePolicy,
            rewards,
            learning_rate=options.learning_rate,
            n_steps=options.rollout,
            batch_size=options.minibatch,
            n_epochs=options.epochs,
            gae_lambda=options.trace,
            clip_range=options.clip,
            ent_coef=options.entropy,
            max_grad_norm=10.0,
            rollout_buffer_class=TimeDiscountedBuffer,
            rollout_buffer_kwargs={"horizon_s": scale},
            policy_kwargs={
                "laws": laws,
                "network": options.network,
                "without": frozenset(options.without),
                "optimizer_kwargs": {"eps": 1e-8},
            },
            seed=options.seed,
            device="cpu",
        )
        self.model.set_logger(configure(str(folder / "log"), ["tensorboard"]))
        self.block = 0

    @property
    def policy(self) -> QueuePolicy:
        """What is trained."""
        policy = self.model.policy
        assert isinstance(policy, QueuePolicy)
        return policy

    def _begin(self) -> None:
        """Seed what the block draws, and let it begin with fresh episodes."""
        drawn = np.random.SeedSequence([self.options.seed, self.block]).generate_state(1)
        self.model.set_random_seed(int(drawn[0]))
        self._rewards.seed(SEED_STRIDE * (1 + self.block + 4096 * self.options.seed))
        for envs, load in zip(self.venv.groups, self._loads, strict=True):
            envs.options = replace(envs.options, load=self.options.load_in(self.block, load))
        self.model._last_obs = None

    def close(self) -> None:
        """Close the logs."""
        self.model.logger.close()

    def run_block(self, report: Callable[[str], None]) -> None:
        """The next block: the teacher's choices first, where there is one, then PPO."""
        self._begin()
        if self.block == 0 and self.options.teacher != "none":
            self._imitate(report)
        else:
            if self.block == 1 and self.options.teacher != "none":
                self._soften()
            self._learn()
        self.block += 1

    def _imitate(self, report: Callable[[str], None]) -> None:
        options = self.options
        teacher = Teacher(self.venv, options.teacher)
        agreements: list[float] = []

        def told(step: int, loss: float, agreement: float) -> None:
            agreements.append(agreement)
            if (step + 1) % 100 == 0:
                share = np.mean(agreements[-100:])
                report(f"imitation, step {step + 1}: {share:.1%} of the choices as the teacher")

        rng = np.random.default_rng(options.seed)
        imitate(self.policy, self.venv, teacher, options.imitation_steps, 1e-3, rng, told)

    def _soften(self) -> None:
        observation = self.venv.reset()
        for _ in range(500):  # until queues are as they usually are
            masks = np.stack(self.venv.env_method("action_masks"))
            actions, _ = self.policy.predict(observation, deterministic=True, action_masks=masks)
            self.venv.step_async(actions)
            observation, *_ = self.venv.step_wait()
        masks = np.stack(self.venv.env_method("action_masks"))
        seen = {name: torch.from_numpy(part) for name, part in observation.items()}
        self.policy.soften(seen, masks, self.options.exploration)

    def _learn(self) -> None:
        options = self.options
        values_only = self.block < options.value_blocks + (options.teacher != "none")
        self.policy.scorer.requires_grad_(not values_only)
        steps = options.rollouts * options.rollout * self.model.n_envs
        self.model.learn(
            steps,
            callback=Clock(),
            reset_num_timesteps=False,
            use_masking="mask" not in options.without,
        )
