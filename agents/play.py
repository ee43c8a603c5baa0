"""Judge a network that is no compiled rule, by stepping the environment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from agents.judge import Task
from agents.queue_policy import QueuePolicy
from laps_env.layout import CATEGORY, OCCUPIED
from laps_env.scenarios import Scenario
from laps_env.vector_env import SpecDecodeReplayVectorEnv
from policies.laws import Floats


def log_ratios(
    policy: QueuePolicy,
    tasks: Sequence[Task],
    scenario: Scenario,
    first_category: int,
    slots: int,
) -> Floats:
    """Log ratios of mean and p99 latency to the reference's, averaged over tasks of one scenario.

    Args:
        policy: chooses its likeliest action.
        tasks: workloads of equally many requests, and what the reference made of them.
        scenario: of all tasks.
        first_category: where its categories begin in the policy's table of laws.
        slots: rows of the request table; of a flat network, those that it was made for.
    """
    envs = SpecDecodeReplayVectorEnv(
        len(tasks),
        scenario=scenario,
        num_requests=tasks[0].workload.num_requests,
        slots=slots,
        autoreset_mode="SameStep",  # a row that has ended serves something else meanwhile
    )
    envs.reset(seed=0)
    for row, task in enumerate(tasks):
        mask = np.arange(len(tasks)) == row
        observation, info = envs.reset(options={"workload": task.workload, "reset_mask": mask})
    ratios: dict[int, Floats] = {}
    while len(ratios) < len(tasks):
        queue = observation["queue"]
        queue[:, :, CATEGORY] += first_category * queue[:, :, OCCUPIED]
        with torch.no_grad():
            seen = {name: torch.from_numpy(part) for name, part in observation.items()}
            chosen = policy.get_distribution(seen, envs.action_masks()).mode()
        observation, _, terminated, truncated, info = envs.step(chosen.numpy())
        for row in np.flatnonzero(terminated | truncated).tolist():
            summary = info["final_info"]["summary"]
            reached = [summary[name][row] for name in ("mean_latency_s", "p99_latency_s")]
            ratios.setdefault(row, np.array(reached) / tasks[row].reference)
    return np.log(list(ratios.values())).mean(axis=0)
