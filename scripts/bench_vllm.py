"""Measure what deciding costs inside vLLM: microseconds of a step, beside the table's own part.

Runs in vLLM's environment on the tests' tiny models: make bench-vllm. So many requests more than
the batch are there and stay for all steps. *Step* is all that the scheduler adds to a step of
vLLM: the counter decision_seconds, from one step to the next. *Table* is one ranking and one
account of a full batch. Both are medians. Aimed at, with 64 waiting: 150 us for a rule, 300 us for
the network.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from in_vllm.tiny import Ask, TinyServer

POLICIES = ("fcfs", "laps_sd", "gittins", "learned_index", "learned")
WAITING, BATCH = (8, 64, 256), 8
#: Steps that are left out, in which prompts are computed and functions compiled, and all steps.
FIRST, STEPS = 50, 150
#: Scenario whose laws the policies know.
SCENARIO = "mixed-batch8-8b"


def step_us(server: TinyServer, waiting: int) -> float:
    """A step's decision while requests wait, the median over steps; they stay for the table's."""
    for number in range(waiting + BATCH):
        server.add(number, Ask(240, {"predicted_tokens": 20 + 7 * number % 200}))
    seconds = []
    for _ in range(STEPS):
        before = server.counts["decision_seconds"]
        server.engine.step()
        seconds.append(server.counts["decision_seconds"] - before)
    assert server.scheduler.table.requests > waiting
    return median(seconds[FIRST:]) * 1e6


def table_us(table: Any) -> float:
    """A ranking and an account of the best, the median of many."""
    now = time.monotonic_ns()
    served = [(slot, 2, 3) for slot in table.rank(now, 10**6)[:BATCH]]

    def once() -> None:
        table.rank(now, 10**6)
        table.end_step(now, 10**7, served, decoding=True)

    return median(_seconds(once) for _ in range(STEPS)) * 1e6


def _seconds(call: Callable[[], None]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        server = TinyServer(
            Path(folder), max_num_seqs=WAITING[-1] + BATCH, max_num_batched_tokens=4096
        )
        from laps_env.policies.base.traffic_file import fit_traffic, write_traffic
        from laps_env.workloads.scenarios import get_scenario

        traffic = Path(folder) / "traffic.json"
        write_traffic(traffic, fit_traffic(get_scenario(SCENARIO)))
        print("us       ", *(f"{n:>5} waiting: step  table" for n in WAITING))
        for policy in POLICIES:
            cells = []
            for waiting in WAITING:
                server.use(policy=policy, batch_size=BATCH, traffic=str(traffic))
                step, table = step_us(server, waiting), table_us(server.scheduler.table)
                server.engine.abort_request([str(n) for n in range(waiting + BATCH)])
                cells.append(f"{step:19.0f}{table:7.0f}")
            print(f"{policy:13}", *cells)


if __name__ == "__main__":
    main()
