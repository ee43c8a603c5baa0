"""The clairvoyant: no order is better, and what it must be told."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from observed import observe

import laps_env
from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.sim.costs import CostModel
from laps_env.sim.observation import ARRIVAL_NUMBER, GENERATED_TOKENS
from laps_env.sim.server_model import ServerModel
from laps_env.workloads import Workload
from laps_env.workloads.scenarios import Scenario, get_scenario


def small_workload(rng: np.random.Generator, requests: int, longest: int) -> Workload:
    output = rng.integers(1, longest + 1, requests)
    return Workload(
        arrival_ns=np.sort(rng.integers(0, 500, requests)),
        prompt_tokens=np.ones(requests, np.int64),
        output_tokens=output,
        predicted_tokens=rng.uniform(1, 9, requests),
        category=np.zeros(requests, np.int64),
        accepted_length=rng.integers(0, 4, output.sum()).astype(np.uint8),
    )


def serial_scenario(draft_length: int) -> Scenario:
    """Rounds of exactly 100 ns, whatever they do: pre-emption is free."""
    cost = CostModel(0, 100, 0, 0, 0, 0, 0, 0)
    server = ServerModel(cost, batch_size=1, draft_length=draft_length)
    return replace(get_scenario("chat-serial-8b"), server=server)


def least_total_latency(workload: Workload, draft_length: int) -> int:
    """The best of all orders, tried one by one, in ns."""
    arrival = workload.arrival_ns.tolist()
    rounds = []
    for i, length in enumerate(workload.output_tokens):
        runs, position, count = workload.accepted_length[workload.offset[i] :], 0, 0
        while position < length:
            position += min(int(runs[position]), draft_length) + 1
            count += 1
        rounds.append(count)

    def best(now: int, left: tuple[int, ...]) -> int:
        if not any(left):
            return 0
        present = [i for i, r in enumerate(left) if r and arrival[i] <= now]
        if not present:
            return best(min(arrival[i] for i, r in enumerate(left) if r), left)
        ends = []
        for i in present:
            after = (*left[:i], left[i] - 1, *left[i + 1 :])
            completed = now + 100 - arrival[i] if after[i] == 0 else 0
            ends.append(completed + best(now + 100, after))
        return min(ends)

    return best(0, tuple(rounds))


@pytest.mark.parametrize("seed", range(12))
def test_no_order_is_better_than_the_oracle_on_a_serial_server(seed: int) -> None:
    workload = small_workload(np.random.default_rng(seed), requests=4, longest=6)
    scenario = serial_scenario(draft_length=2)
    requests = serve(policies.make("oracle_srpt"), workload, scenario).requests()
    total = int((requests["completion_ns"] - requests["arrival_ns"]).sum())
    assert total == least_total_latency(workload, draft_length=2)


def test_the_oracle_refuses_without_its_door() -> None:
    env = gym.make(laps_env.ENV_IDS[0], num_requests=3)
    observation, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=r"oracle_srpt: expected with_oracle\(.*more than the obs"):
        policies.make("oracle_srpt").predict(observation)


def test_the_oracle_refuses_requests_that_it_does_not_know() -> None:
    scenario = get_scenario("chat-serial-8b")
    workload = scenario.workload(load=0.9, num_requests=2)
    oracle = policies.make("oracle_srpt").with_oracle(workload, scenario.server)
    length = int(workload.output_tokens[1])
    oracle.predict(observe([{}, {GENERATED_TOKENS: length - 1}]))
    for row in ({ARRIVAL_NUMBER: 2}, {GENERATED_TOKENS: length}, {ARRIVAL_NUMBER: np.nan}):
        with pytest.raises(ValueError, match="expected the 2 requests that it knows, got others"):
            oracle.predict(observe([{}, row]))
