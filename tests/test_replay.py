"""The recorded turns, served again with the recorded draft lengths by the kernel."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import laps_env
from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.sim.observation import (
    ARRIVAL_NUMBER,
    GENERATED_TOKENS,
    LAST_DRAFTED,
    OCCUPIED,
    ROUNDS,
)
from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.importers import import_spec_bench
from laps_env.workloads import replay_recorded
from laps_env.workloads.scenarios import get_scenario

INFO = TraceInfo(drafter="draft-model", target_model="vicuna-7b-v1.3", draft_model="vicuna-68m")


@pytest.fixture(scope="module")
def turns(shared_data: Path) -> AcceptanceTrace:
    """All recorded turns."""
    path = shared_data / "acceptance" / "vicuna7b_vicuna68m_rounds.jsonl.gz"
    return import_spec_bench(path, INFO, plain_draft=True)


@pytest.mark.parametrize("policy_name", ["fcfs", "random"])
def test_every_round_commits_what_was_recorded(turns: AcceptanceTrace, policy_name: str) -> None:
    """Round by round through the environment, in order and in a random order of serving."""
    some = turns.select(np.arange(0, turns.num_requests, 8))
    committed = _serve(some, policy_name)
    assert some.schedule is not None
    assert some.committed is not None
    assert some.schedule_offset is not None
    for i in range(some.num_requests):
        rounds = slice(some.schedule_offset[i], some.schedule_offset[i + 1])
        # the last round ends the request, which then has no row to read it from
        assert committed[i] == list(
            zip(some.schedule[rounds][:-1], np.cumsum(some.committed[rounds])[:-1], strict=True)
        )


def test_all_turns_take_the_recorded_number_of_rounds(turns: AcceptanceTrace) -> None:
    scenario = get_scenario("specbench-serial-7b")
    simulation = serve(policies.make("random"), replay_recorded(turns), scenario)
    assert turns.schedule is not None
    assert simulation.state.servers[0]["rounds"] == turns.schedule.size
    assert turns.schedule.max() > 16  # longer than any draft that a server may choose


def _serve(trace: AcceptanceTrace, policy_name: str) -> dict[int, list[tuple[int, int]]]:
    """(drafted, generated so far) of each request's rounds but the last."""
    env = gym.make(laps_env.ENV_IDS[0], scenario="specbench-serial-7b", num_requests=1, slots=64)
    observation, _ = env.reset(seed=0, options={"workload": replay_recorded(trace)})
    policy, state, over = policies.make(policy_name), None, False
    seen: dict[int, list[tuple[int, int]]] = defaultdict(list)
    while not over:
        action, state = policy.predict(observation, state)
        number = int(observation["queue"][action, ARRIVAL_NUMBER])
        observation, _, over, _, _ = env.step(int(action))
        row = observation["queue"][action]
        if row[OCCUPIED] and row[ARRIVAL_NUMBER] == number and row[ROUNDS] == len(seen[number]) + 1:
            seen[number].append((int(row[LAST_DRAFTED]), int(row[GENERATED_TOKENS])))
    return seen


def test_a_trace_without_rounds_cannot_be_replayed() -> None:
    trace = AcceptanceTrace(
        accepted_length=np.array([1, 0], np.uint8),
        offset=np.array([0, 2]),
        output_tokens=np.array([2]),
        prompt_tokens=np.array([3]),
        category=np.array([0]),
        categories=("any",),
        info=INFO,
    )
    with pytest.raises(ValueError, match=r"expected recorded rounds \(schedule\), got none"):
        replay_recorded(trace)
