"""vLLM's table of draft lengths by batch size, with the numbers that are best for a scenario.

Source: vLLM 0.33, "Dynamic Speculative Decoding" (``num_speculative_tokens_per_batch_size``): the
operator gives a number for each size of the batch. Here each is the one of most tokens per second,
by the acceptance of the *train* split and the scenario's costs.
"""

from __future__ import annotations

import numpy as np

from laps_env.policies.base.traffic_model import training_workload
from laps_env.sim.costs import Work, work_ns
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH, TABLE_SIZE
from laps_env.sim.remaining_rounds import remaining_rounds
from laps_env.workloads.scenarios import Scenario

#: Name behind a policy's plus sign.
VLLM = "vllm"


def best_draft_lengths(scenario: Scenario) -> tuple[int, ...]:
    """Draft length for a batch of 1, 2, ... requests, up to the server's largest."""
    workload, constants = training_workload(scenario, None), scenario.server.constants()
    lengths = range(MAX_DRAFT_LENGTH + 1)
    rounds = [remaining_rounds(workload, n)[workload.offset[:-1]].sum() for n in lengths]
    tokens = workload.output_tokens.sum() / np.array(rounds)
    context = float(workload.prompt_tokens.mean() + workload.output_tokens.mean() / 2)
    table = []
    for batch in range(1, min(scenario.server.batch_size, TABLE_SIZE) + 1):
        kv = round(batch * context)
        works = [Work(batch * (n + 1), 0, kv, n, batch * n, n * kv, 0, 0, 0) for n in lengths]
        speed = tokens / [work_ns(constants, work) for work in works]
        table.append(int(speed.argmax()))
    return tuple(table)
