"""Rules for the draft length: SmartSpec, SGLang's adaptive steps, a table by batch size.

With one request, what goes by the request begins as SmartSpec does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernel_pairs import one_request

from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.sim.costs import CostModel
from laps_env.sim.draft_length import PROBE_LENGTH, PROBE_ROUNDS
from laps_env.sim.loops import run_rule
from laps_env.sim.server_model import DraftLength, ServerModel
from laps_env.sim.simulation import Simulation
from laps_env.sim.workload import Workload
from laps_env.workloads.scenarios import Scenario, get_scenario

of_each_rule = pytest.mark.parametrize("rule", ["smartspec", "rate"])


def server(rule: DraftLength, pool_tokens: int = 10_000, **cost: Any) -> ServerModel:
    """A pass takes 10 ns, a draft step 1 ns, what else ``cost`` says."""
    plain = CostModel(0, 10, 0, 0, 1, 0, 0, 0)
    return ServerModel(replace(plain, **cost), draft_length=rule, pool_tokens=pool_tokens)


def drafts(model: ServerModel, accepted: list[int], prompt: int = 1) -> list[int]:
    """Tokens drafted in each round of one request with these accepted lengths."""
    simulation = Simulation(model)
    simulation.start(0, one_request(accepted, prompt))
    scorer = policies.make("fcfs").scorer(simulation.slots)
    found, before = [], 0
    while simulation.state.servers[0]["finished"] == 0:
        run_rule(simulation.constants, simulation.state, scorer, 1)
        slot, request = simulation.state.slots[0, 0], simulation.requests()[0]
        total = int(request["drafted"] or slot["drafted"])
        found.append(total - before)
        before = total
    return found


@of_each_rule
def test_first_choice_by_hand(rule: str) -> None:
    # alpha 1/2: k drafts give 2 - 2**-k tokens in 10 + k ns; 1.75/12 = .1458 is the most
    assert drafts(server(rule), [0])[0] == 2
    # a pass that reads 90 ns of context makes it 100 + k: 1.96875/105 = .01875 is the most
    assert drafts(server(rule, target_kv_token_ns=1.0), [0], prompt=90)[0] == 5
    # context that each draft step reads too: 10 + 11 k: 1/10 is the most
    assert drafts(server(rule, draft_kv_token_ns=1.0), [0], prompt=10)[0] == 0


@of_each_rule
def test_it_chooses_what_has_room(rule: str) -> None:
    # 5 would be best; the pool holds prompt 90, output 1 and 2 draft tokens more
    assert drafts(server(rule, 93, target_kv_token_ns=1.0), [0], prompt=90)[0] == 2


@of_each_rule
def test_no_draft_is_probed_and_left_again(rule: str) -> None:
    """Nothing is accepted for 300 rounds, then everything: it comes back."""
    found = np.array(drafts(server(rule, draft_step_ns=3.0), [0] * 300 + [15] * 1200))
    silent = int(np.flatnonzero(found == 0)[0])
    probes = np.flatnonzero(found[silent : silent + 2 * PROBE_ROUNDS + 2])
    assert probes.tolist() == [PROBE_ROUNDS, 2 * PROBE_ROUNDS + 1]
    assert found[silent + PROBE_ROUNDS] == PROBE_LENGTH
    assert found[-2] > PROBE_LENGTH


def test_adaptive_steps_by_hand() -> None:
    """One request: 3 tokens at first; every fifth round from the fifteenth on it may change."""
    nothing = drafts(server("sglang"), [0] * 40)
    # the average falls from 2 by a fifth each round: .07 after 15, below 1 - 1/2 - 1/4
    assert nothing == [3] * 15 + [1] * 25
    # all is accepted: 3 - .8**15 is above 3 - 1/2, then 5 - (5 - 2.96) * .8**5 = 4.33 is not above
    # 5 - 1/2, and 5 - .67 * .8**5 = 4.78 is
    rising = drafts(server("sglang"), [15] * 200)
    assert rising[:27] == [3] * 15 + [5] * 10 + [7] * 2


def test_a_table_goes_by_the_requests_of_a_round() -> None:
    model = replace(server((4, 2)), batch_size=3)
    assert drafts(model, [0] * 3) == [4, 4, 4]
    workload = Workload(
        arrival_ns=np.zeros(3, np.int64),
        prompt_tokens=np.ones(3, np.int64),
        output_tokens=np.array([1, 2, 3]),
        predicted_tokens=np.ones(3),
        category=np.zeros(3, np.int64),
        accepted_length=np.zeros(6, np.uint8),
    )
    simulation = Simulation(model)
    simulation.start(0, workload)
    policies.make("fcfs").run(simulation)  # rounds of three, two and one
    assert simulation.requests()["drafted"].tolist() == [2, 4, 8]


def test_the_best_table_is_the_best_draft_length_of_each_size() -> None:
    scenario = get_scenario("mixed-batch8-8b")
    table = policies.make("fcfs+vllm", scenario).draft_length
    assert isinstance(table, tuple)
    assert len(table) == 8
    assert list(table) == sorted(table, reverse=True)  # a wider batch drafts no more
    serial = get_scenario("mixed-serial-8b")
    assert policies.make("fcfs+vllm", serial).draft_length == (serial.server.draft_length,)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mixed-serial-135m", "pressure-batch8-135m", "chat-serial-8b", "mixed-batch8-8b"]
)
def test_it_is_no_worse_than_the_reference_draft_length(name: str) -> None:
    scenario = get_scenario(name)
    policy = policies.make("laps_sd", scenario)
    workloads = [
        scenario.workload(load=0.9, num_requests=1000, split="validation", seed=5000 + seed)
        for seed in range(8)
    ]

    def latency(scenario: Scenario) -> float:
        played = [serve(policy, w, scenario, split="validation").requests() for w in workloads]
        return float(sum((r["completion_ns"] - r["arrival_ns"]).sum() for r in played))

    smart = scenario.server.with_changes(draft_length="smartspec")
    assert latency(replace(scenario, server=smart)) <= 1.03 * latency(scenario)
