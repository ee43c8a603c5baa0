"""Verifying the surest tokens of a batch: by hand, against the reference, and what it is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from kernel_pairs import Pair, make_server
from random_instances import random_server, random_workload

from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.sim.costs import CostModel
from laps_env.sim.loops import run_in_order, step_scores
from laps_env.sim.server_model import ServerModel
from laps_env.sim.simulation import Simulation
from laps_env.sim.topk import USUAL, topk_of
from laps_env.workloads import Workload
from laps_env.workloads.load import busy_time_s
from laps_env.workloads.scenarios import get_scenario

BLOCKS = 5
BATCH = "specbench-batch32-h200"


@pytest.mark.parametrize("block", range(BLOCKS))
def test_kernel_equals_the_reference(block: int) -> None:
    for seed in range(block, 200, BLOCKS):
        rng = np.random.default_rng([seed, 31])
        fields = random_workload(rng)
        tokens = int(fields["output_tokens"].sum())
        levels = np.array([0, 128, 200, 255]) if rng.random() < 0.5 else np.arange(256)
        fields["confidence"] = rng.choice(levels, tokens).astype(np.uint8)  # some have many ties
        slots = int(rng.integers(1, 9))
        rule = {"draft_length": f"topk:{rng.integers(17)}"}
        server = make_server(random_server(rng, fields) | rule, slots)
        pair = Pair(fields, server, slots)
        while not pair.ended:
            pair.step_pick(int(rng.choice(pair.valid_actions())))
        pair.check_results()
        for number in pair.reference.completed:
            history = pair.reference.requests[number].history
            request = pair.simulation.requests()[number]
            assert request["drafted"] == sum(drafted for drafted, _ in history)
            assert request["accepted"] == sum(accepted for _, accepted in history)


def toy(**changes: Any) -> Workload:
    """Two requests at once: A drafts 1, .8, .2 (products 1, .8, .16), B .6, .5, 1 (.6, .3, .3)."""
    fields: dict[str, Any] = {
        "arrival_ns": np.array([0, 0]),
        "prompt_tokens": np.array([4, 4]),
        "output_tokens": np.array([4, 4]),
        "predicted_tokens": np.array([4.0, 4.0]),
        "category": np.array([0, 0]),
        "accepted_length": np.array([3, 2, 1, 0, 3, 2, 1, 0], np.uint8),
        "confidence": np.array([255, 204, 51, 255, 153, 128, 255, 255], np.uint8),
    }
    return Workload(**fields | changes)


def toy_server(token_ns: float, **changes: Any) -> ServerModel:
    """Rounds of 100 ns, 10 more for each draft step, ``token_ns`` for each verified token."""
    cost = CostModel(0, 100, token_ns, 0, 10, 0, 0, 0)
    fields: dict[str, Any] = {"batch_size": 2, "draft_length": "topk:3"}
    return ServerModel(cost, **fields | changes)


def first_round(workload: Workload, server: ServerModel) -> Simulation:
    simulation = Simulation(server, slots=2)
    simulation.start(0, workload)
    nobody, not_copied = np.zeros(1, np.bool_), np.zeros((0, 1, 1), np.float32)
    step_scores(simulation.constants, 1.0, simulation.state, np.zeros((1, 2)), nobody, not_copied)
    return simulation


@pytest.mark.parametrize(
    ("token_ns", "verified"),
    [
        (0, [3, 3]),  # costs nothing
        # expected tokens over time, 2/150 < 3/160 < 3.8/170 < 4.4/180 < 4.7/190 < 5.0/200; B's two
        # of .3 are surer than A's last: 5.16/210 is less again
        (10, [2, 3]),
        (20, [2, 1]),  # 2/170 < 3/190 < 3.8/210 < 4.4/230 > 4.7/250
        (65, [2, 0]),  # 2/260 < 3/325 < 3.8/390 > 4.4/455
        (200, [1, 0]),  # 2/530 < 3/730 > 3.8/930
        (10**6, [1, 0]),  # a certain token always pays: the pass is there anyway
    ],
)
def test_the_surest_tokens_are_verified_as_worked_out_by_hand(
    token_ns: float, verified: list[int]
) -> None:
    simulation = first_round(toy(), toy_server(token_ns))
    assert simulation.state.slots[0]["verifying"].tolist() == verified
    duration = 130 + token_ns * (2 + sum(verified) + 8)  # all three draft steps, and 8 prefilled
    assert simulation.state.servers[0]["now"] == duration


def test_an_episode_is_served_as_worked_out_by_hand() -> None:
    simulation = Simulation(toy_server(20), slots=2)
    simulation.start(0, toy())
    run_in_order(simulation.constants, simulation.state, np.zeros(2))
    # 390 ns: A is verified 2 of 3 and commits 3, B 1 of 3 and commits 2. Then the drafts of both
    # are certain, behind the end too: all six tokens verified, 100 + 30 + 8 * 20 = 290 ns.
    requests = simulation.requests()
    assert requests["completion_ns"].tolist() == [680, 680]
    assert requests["drafted"].tolist() == [2 + 3, 1 + 3]  # what is not verified does not count
    assert requests["accepted"].tolist() == [2 + 0, 1 + 1]


def test_it_drafts_what_the_pool_has_room_for() -> None:
    simulation = first_round(toy(), toy_server(0, pool_tokens=13))
    assert simulation.state.servers[0]["last_draft_length"] == 1  # (13 - 2 * (4 + 1)) // 2
    assert simulation.state.slots[0]["verifying"].tolist() == [1, 1]


def test_where_verification_is_free_it_is_a_fixed_draft_length() -> None:
    scenario = get_scenario("mixed-batch8-8b")
    workload = scenario.workload(load=0.9, num_requests=100, confidences=True)
    assert workload.confidence is not None
    workload = replace(workload, confidence=np.maximum(workload.confidence, 1))
    free = replace(scenario.server, cost=replace(scenario.server.cost, target_token_ns=0.0))
    times = [busy_time_s(workload, free.with_changes(draft_length=n)) for n in ("topk:4", 4)]
    assert times[0] == times[1]


@pytest.mark.parametrize("scenario", ["mixed-serial-8b", "mixed-batch8-8b", BATCH])
def test_behind_a_policy_it_is_no_worse_than_the_fixed_length(scenario: str) -> None:
    known = get_scenario(scenario)
    rule = policies.make("fcfs+topk", known).draft_length
    workload = known.workload(load=0.9, num_requests=400, split="test", confidences=True)
    fixed = busy_time_s(workload, known.server)
    assert busy_time_s(workload, known.server.with_changes(draft_length=rule)) < 1.005 * fixed


def test_where_many_are_verified_at_once_it_saves() -> None:
    known = get_scenario(BATCH)
    policy = policies.make("laps_sd+topk", known)
    assert topk_of(policy.draft_length) is not None
    workload = known.workload(load=0.9, num_requests=400, split="test", confidences=True)
    assert (serve(policy, workload, known).requests()["completion_ns"] > 0).all()


def test_its_name_says_what_each_request_drafts() -> None:
    assert (topk_of("topk"), topk_of("topk:0"), topk_of("topk:16")) == (USUAL, 0, 16)
    for other in ("topk:", "topk:17", "topk:-1", "topk:1.5", "topk:4:4", "top", 4, (4,)):
        assert topk_of(other) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toy_server(1, draft_length="topk:17"), "'topk:0..16'"),
        (lambda: toy_server(1, draft_length="topk:x"), "'topk:0..16'"),
        (lambda: policies.make("fcfs+topk:5"), "topk"),
        (
            lambda: busy_time_s(toy(confidence=None), toy_server(1)),
            "workload: expected the draft's confidences",
        ),
    ],
)
def test_where_it_cannot_be_it_is_said(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_recording_without_confidences_has_none(lookup_scenario: str) -> None:
    with pytest.raises(ValueError, match="has none"):
        policies.make("fcfs+topk", lookup_scenario)
    with pytest.raises(ValueError, match="confidence: expected recorded confidences"):
        gym.make("laps_env/SpecDecodeReplay-v0", scenario=lookup_scenario, draft_length="topk")
