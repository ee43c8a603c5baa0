"""Rules that also decide how much is drafted: what they ask is what the kernel drafts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import laps_env
from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.policies import ROUNDS, RuleSpec, rule
from laps_env.policies._registry import network_rule
from laps_env.policies.networks.joint import START
from laps_env.sim.observation import ARRIVAL_NUMBER, GENERATED_TOKENS
from laps_env.sim.workload import Workload
from laps_env.workloads.scenarios import get_scenario


@rule
def alike(row: Any, server: Any, params: Any, memory: Any) -> float:
    """First come first served; up to eight tokens while their product is at least 0.3."""
    memory[0], memory[1] = 8.0, 0.3
    return row[ARRIVAL_NUMBER]


@rule
def growing(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Last come first served; a token more each round, of five, beyond what may be asked."""
    memory[0], memory[1] = row[ROUNDS] % 5, 0.0
    return -row[ARRIVAL_NUMBER]


ALIKE = RuleSpec("alike", "asks the same for all", alike, cells=2, drafts=True)
GROWING = RuleSpec("growing", "asks more and more", growing, cells=2, drafts=True)


def drawn(name: str, seed: int = 0) -> Workload:
    """Short work of a scenario, with confidences."""
    return get_scenario(name).workload(
        load=1.1, num_requests=60, split="validation", seed=seed, confidences=True
    )


def asking(spec: RuleSpec) -> policies.Policy:
    """The policy of a rule without parameters."""
    return policies.Policy(spec.name, spec, {}, np.zeros(0), draft_length="policy")


@pytest.mark.parametrize("name", ["mixed-serial-8b", "pressure-batch8-8b"])
def test_one_wish_for_all_is_the_servers_own_rule(name: str) -> None:
    scenario, workload = get_scenario(name), drawn(name)
    asked = serve(asking(ALIKE), workload, scenario, split="validation").requests()
    server = scenario.server.with_changes(draft_length="confidence:0.3:8")
    own = policies.make("fcfs", scenario)
    given = serve(own, workload, replace(scenario, server=server), split="validation").requests()
    np.testing.assert_array_equal(asked, given)


@pytest.mark.parametrize("name", ["mixed-serial-8b", "mixed-batch8-8b"])
def test_what_a_rule_asks_is_what_an_agent_would(name: str) -> None:
    """The same play, action by action, where the pool has room for any draft."""
    scenario, workload = get_scenario(name), drawn(name, 3)
    asked = serve(asking(GROWING), workload, scenario, split="validation").requests()
    env = gym.make(laps_env.ENV_IDS[0], scenario=scenario, num_requests=1, interface="drafts")
    observation, _ = env.reset(seed=0, options={"workload": workload})
    bare: Any = env.unwrapped
    over = False
    policy = asking(GROWING)
    while not over:
        slot, _ = policy.predict(observation)
        row = observation["queue"][min(int(slot), 63)]
        length = int(row[ROUNDS]) % 5
        observation, _, over, _, info = env.step(np.array([slot, length]))
        assert not info["invalid_action"]
    np.testing.assert_array_equal(bare._envs.simulation.requests(), asked)


def test_a_wish_out_of_range_is_cut() -> None:
    @rule
    def greedy(row: Any, server: Any, params: Any, memory: Any) -> float:
        memory[0], memory[1] = 99.0 if row[GENERATED_TOKENS] > 0 else -3.0, 0.0
        return row[ARRIVAL_NUMBER]

    spec = RuleSpec("greedy", "asks for too much", greedy, cells=2, drafts=True)
    scenario, workload = get_scenario("mixed-serial-8b"), drawn("mixed-serial-8b")
    requests = serve(asking(spec), workload, scenario, split="validation").requests()
    assert (requests["drafted"] % 16 == 0).all()
    assert requests["drafted"].max() > 0


@pytest.mark.parametrize("cell", [0, 1])
def test_a_wish_that_is_no_number_is_refused(cell: int) -> None:
    @rule
    def lost(row: Any, server: Any, params: Any, memory: Any) -> float:
        memory[0], memory[1] = 4.0, 0.3
        memory[int(params[0])] = np.nan
        return row[ARRIVAL_NUMBER]

    spec = RuleSpec("lost", "asks for nothing that is", lost, cells=2, drafts=True)
    policy = replace(asking(spec), params=np.array([float(cell)]))
    scenario, workload = get_scenario("mixed-serial-8b"), drawn("mixed-serial-8b")
    with pytest.raises(ValueError, match="expected a finite priority, longest draft and threshold"):
        serve(policy, workload, scenario, split="validation")
    env = gym.make(laps_env.ENV_IDS[0], scenario=scenario, num_requests=2)
    _, state = policy.predict(env.reset(seed=0)[0])
    with pytest.raises(ValueError, match="lost: expected a finite longest draft and threshold"):
        policy.asked(state, 64)


def test_the_search_begins_at_the_rule_with_the_best_draft() -> None:
    scenario = get_scenario("mixed-serial-8b")
    joint = policies.make(network_rule("joint", "joint", {"weights": START}), scenario)
    hand = policies.make("gittins_running+confidence", scenario)
    assert f"confidence:{joint.settings['threshold']:g}:{joint.settings['most']:g}" == (
        hand.draft_length
    )
    workload = drawn("mixed-serial-8b", 5)
    first, second = (
        serve(policy, workload, scenario, split="validation").requests() for policy in (joint, hand)
    )
    np.testing.assert_array_equal(first["completion_ns"], second["completion_ns"])


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"bad: cells: expected .*>= 2"):
        RuleSpec("bad", "no room to ask", alike, cells=1, drafts=True)
    env: Any = gym.make(laps_env.ENV_IDS[0]).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected 'policy' where drafts are asked, got 4"):
        env.ask_drafts(np.zeros(64), np.zeros(64))
    env = gym.make(laps_env.ENV_IDS[0], scenario="mixed-serial-8b", draft_length="policy").unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"asked: expected 64 numbers 0\.\.16"):
        env.ask_drafts(np.full(64, 17), np.zeros(64))
    with pytest.raises(ValueError, match="expected weights of shape"):
        network_rule("joint", "joint", {"weights": START[1:]})
    scenario = get_scenario("mixed-serial-8b")
    blind = scenario.workload(load=1.0, num_requests=3)
    with pytest.raises(ValueError, match="expected the draft's confidences"):
        serve(asking(ALIKE), blind, scenario)
