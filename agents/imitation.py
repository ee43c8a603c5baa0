"""Warm start: learn to choose as a teacher does, before learning from rewards.

The teacher may be clairvoyant (`oracle_srpt`): it sees the workload, the student never does. The
student meets the states that its own choices lead to, and is told what the teacher would do there
(DAgger: Ross, Gordon and Bagnell, AISTATS 2011).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from laps_env import policies
from laps_env.agents.queue_policy import NEVER, QueuePolicy
from laps_env.agents.vec_env import Observation, ReplayVecEnv


class Teacher:
    """A policy asked about every environment.

    Args:
        venv: The servers; a clairvoyant policy is told of their workloads.
        name: Name of the policy.
    """

    def __init__(self, venv: ReplayVecEnv, name: str) -> None:
        self._venv = venv
        self._made = venv.per_env(
            lambda envs: policies.make(
                name, envs.options.get_scenario(), predictor_error=envs.options.predictor_error
            )
        )
        # Environments that one policy decides together; a clairvoyant knows another future in each.
        clairvoyant = self._made[0].spec.clairvoyant
        each = [range(index, index + 1) for index in range(venv.num_envs)]
        self._members = each if clairvoyant else venv.members
        self._states: list[npt.NDArray[np.float64] | None] = [None] * len(self._members)
        self._begins = np.ones(venv.num_envs, np.bool_)

    def begin(self, index: int) -> None:
        """A new episode has begun in this environment."""
        self._begins[index] = True
        if self._made[index].spec.clairvoyant:
            envs, i = self._venv.places[index]
            workload = envs.workload(i)
            self._made[index] = self._made[index].with_oracle(workload, envs.options.server)

    def choose(self, observation: Observation) -> npt.NDArray[np.int64]:
        """Its actions [E]."""
        actions = np.empty(self._venv.num_envs, np.int64)
        queue = self._venv.with_own_categories(observation["queue"])
        for k, members in enumerate(self._members):
            part = slice(members.start, members.stop)
            seen = {"queue": queue[part], "server": observation["server"][part]}
            actions[part], self._states[k] = self._made[members.start].predict(
                seen, self._states[k], episode_start=self._begins[part]
            )
        self._begins[:] = False
        return actions


def imitate(
    policy: QueuePolicy,
    venv: ReplayVecEnv,
    teacher: Teacher,
    steps: int,
    learning_rate: float,
    rng: np.random.Generator,
    report: Callable[[int, float, float], None] = lambda step, loss, agreement: None,
) -> None:
    """Fit the scorer to the teacher's choices, one gradient step per step of all environments.

    Args:
        policy: Policy whose scorer learns.
        venv: Environments, seeded; they are reset.
        teacher: Teacher of these servers.
        steps: Number of steps of all environments; the share of the student's own choices among
            those that are taken grows from none to all over the first half.
        learning_rate: Learning rate of Adam.
        rng: Generator that draws whose choice is taken.
        report: Callback told of each step: loss, share of choices that agree.
    """
    optimizer = torch.optim.Adam(policy.scorer.parameters(), lr=learning_rate)
    observation = venv.reset()
    for index in range(venv.num_envs):
        teacher.begin(index)
    for step in range(steps):
        seen = {name: torch.from_numpy(part) for name, part in observation.items()}
        masks = torch.from_numpy(np.stack(venv.env_method("action_masks")))
        logits = policy.logits(policy.describe(seen)).masked_fill(~masks, NEVER)
        wanted = teacher.choose(observation)
        loss = cross_entropy(logits, torch.from_numpy(wanted))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        own = logits.argmax(dim=1).numpy()
        report(step, float(loss.detach()), float((own == wanted).mean()))
        taken = np.where(rng.random(venv.num_envs) < 2 * step / steps, own, wanted)
        venv.step_async(taken)
        observation, _, dones, _ = venv.step_wait()
        for index in np.flatnonzero(dones).tolist():
            teacher.begin(index)
