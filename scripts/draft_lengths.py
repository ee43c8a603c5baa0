"""Compare fixed draft lengths and SmartSpec in every scenario, on the validation split.

Mean latency of the tuned LAPS-SD at load 0.9, over the best fixed draft length's.
"""

from __future__ import annotations

from dataclasses import replace

from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.policies import Policy
from laps_env.report.tables import text_table
from laps_env.sim.draft_length import SMARTSPEC
from laps_env.workloads import Workload
from laps_env.workloads.scenarios import Scenario, get_scenario, list_scenarios

FIXED = range(9)
LOAD = 0.9
REQUESTS = 1000
#: Workloads that parameters were not tuned on.
SEEDS = range(5000, 5008)


def main() -> None:
    """Play all scenarios and print the table."""
    headings = ("scenario", "n", "best n", "n / best", "smartspec / best")
    print(text_table(headings, (compare(name) for name in list_scenarios())))


def compare(name: str) -> tuple[object, ...]:
    """A line of the table."""
    scenario = get_scenario(name)
    policy = policies.make("laps_sd_tuned", scenario)
    workloads = [
        scenario.workload(load=LOAD, num_requests=REQUESTS, split="validation", seed=seed)
        for seed in SEEDS
    ]
    fixed = {n: total_latency_ns(policy, workloads, scenario, n) for n in FIXED}
    best, own = min(fixed, key=lambda n: fixed[n]), scenario.server.reference_draft_length
    smart = total_latency_ns(policy, workloads, scenario, SMARTSPEC)
    return name, own, best, f"{fixed[own] / fixed[best]:.3f}", f"{smart / fixed[best]:.3f}"


def total_latency_ns(
    policy: Policy, workloads: list[Workload], scenario: Scenario, draft_length: int | str
) -> int:
    """Latency of all requests together."""
    server = scenario.server.with_changes(draft_length=draft_length)
    scenario = replace(scenario, server=server)
    served = [serve(policy, w, scenario, split="validation").requests() for w in workloads]
    return sum(int((r["completion_ns"] - r["arrival_ns"]).sum()) for r in served)


if __name__ == "__main__":
    main()
