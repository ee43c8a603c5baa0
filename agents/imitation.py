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

from agents.queue_policy import NEVER, QueuePolicy
from agents.vec_env import Observation, ReplayVecEnv
from laps_env.scenarios import Scenario
from policies import Policy


class Teacher:
    """A policy asked about every row.

    Args:
        venv: the servers; a clairvoyant policy is told of their workloads.
        make_policy: the teacher of a scenario.
    """

    def __init__(self, venv: ReplayVecEnv, make_policy: Callable[[Scenario], Policy]) -> None:
        self._places = venv.places
        self._made = venv.per_row(lambda envs: make_policy(envs.options.get_scenario()))
        self._rows = list(self._made)
        self._states: list[npt.NDArray[np.float64] | None] = [None] * venv.num_envs

    def begin(self, row: int) -> None:
        """A new episode has begun in this row."""
        (envs, i), policy = self._places[row], self._made[row]
        if policy.spec.clairvoyant:
            policy = policy.knowing(envs.reveal_workload(i), envs.options.server)
        self._rows[row], self._states[row] = policy, None

    def choose(self, observation: Observation) -> npt.NDArray[np.int64]:
        """Its actions [E]."""
        actions = np.empty(len(self._rows), np.int64)
        for row, policy in enumerate(self._rows):
            seen = {name: part[row] for name, part in observation.items()}
            actions[row], self._states[row] = policy.predict(seen, self._states[row])
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
    """Fit the scorer to the teacher's choices, one gradient step per step of all rows.

    Args:
        policy: its scorer learns.
        venv: seeded; is reset.
        teacher: of these servers.
        steps: of all rows; the share of the student's own choices among those that are taken
            grows from none to all over the first half.
        learning_rate: of Adam.
        rng: draws whose choice is taken.
        report: told of each step: loss, share of choices that agree.
    """
    optimizer = torch.optim.Adam(policy.scorer.parameters(), lr=learning_rate)
    observation = venv.reset()
    for row in range(venv.num_envs):
        teacher.begin(row)
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
        for row in np.flatnonzero(dones).tolist():
            teacher.begin(row)
