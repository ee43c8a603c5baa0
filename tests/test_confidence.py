"""Drafting by the draft's confidences: by hand, against the reference, and what they are worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from kernel_pairs import Pair, make_server, one_request
from random_instances import random_server, random_workload

from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.sim.confidence import Confident, confident_length, confident_of
from laps_env.sim.costs import CostModel
from laps_env.sim.server_model import ServerModel
from laps_env.workloads.confidence import confidence_table
from laps_env.workloads.load import busy_time_s
from laps_env.workloads.requests import GeneratedRequests, RecordedRequests
from laps_env.workloads.scenarios import Scenario, get_scenario

BLOCKS = 5
SERIAL = "mixed-serial-8b"


@pytest.mark.parametrize("block", range(BLOCKS))
def test_kernel_equals_the_reference(block: int) -> None:
    for seed in range(block, 200, BLOCKS):
        rng = np.random.default_rng([seed, 29])
        fields = random_workload(rng)
        tokens = int(fields["output_tokens"].sum())
        fields["confidence"] = rng.integers(0, 256, tokens).astype(np.uint8)
        slots = int(rng.integers(1, 9))
        rule = {"draft_length": f"confidence:{rng.random():.2f}:{rng.integers(17)}"}
        server = make_server(random_server(rng, fields) | rule, slots)
        pair = Pair(fields, server, slots)
        while not pair.ended:
            pair.step_pick(int(rng.choice(pair.valid_actions())))
        pair.check_results()


@pytest.mark.parametrize(
    ("threshold", "longest", "drafted"),
    [
        (0.3, 8, 3),  # 1, then 0.6, then 0.24: the third is paid for
        (0.0, 8, 8),
        (0.0, 2, 2),
        (1.0, 8, 2),  # a certain draft is not below 1
        (0.2, 8, 4),  # 0.24, then 0.12
        (0.01, 8, 8),  # behind the end nothing is unsure
    ],
)
def test_the_step_that_stops_it_is_paid_for(threshold: float, longest: int, drafted: int) -> None:
    confidence = np.array([7, 255, 153, 102, 128, 3, 0], np.uint8)  # of another request at the ends
    assert confident_length(confidence, 1, 5, longest, threshold) == drafted


def test_a_draft_by_confidences_takes_what_is_worked_out_by_hand() -> None:
    workload = one_request(
        [2, 1, 0, 2, 1, 0], confidence=np.array([255, 255, 0, 255, 0, 0], np.uint8)
    )
    server = ServerModel(CostModel(1e6, 9e6, 0, 0, 1e6, 0, 0, 0), draft_length="confidence:0.5")
    # 3 drafts (the third stops it), 2 of them accepted: 13 ms; then 2, of which both: 12 ms
    assert busy_time_s(workload, server) == pytest.approx(25e-3)


def area_under_curve(scenario: Scenario) -> float:
    workload = scenario.workload(load=0.9, num_requests=300, confidences=True)
    assert workload.confidence is not None
    accepted = workload.accepted_length > 0
    ranks = np.argsort(
        np.argsort(workload.confidence + np.random.default_rng(0).random(accepted.size))
    )
    count = accepted.sum()
    wins = ranks[accepted].sum() - count * (count - 1) / 2
    return float(wins / (count * (accepted.size - count)))


def test_generated_confidences_know_as_much_as_recorded_ones_and_are_calibrated() -> None:
    scenario = get_scenario(SERIAL)
    assert 0.75 <= area_under_curve(scenario) <= 0.8  # a little less than the demo's head
    workload = scenario.workload(load=0.9, num_requests=300, confidences=True)
    assert workload.confidence is not None
    accepted, stated = workload.accepted_length > 0, workload.confidence / 255
    for low in np.arange(0, 1, 0.2):
        there = (stated >= low) & (stated < low + 0.2)
        assert accepted[there].mean() == pytest.approx(stated[there].mean(), abs=0.03)


def test_they_cost_no_other_draw_and_are_drawn_where_needed() -> None:
    scenario = get_scenario(SERIAL)
    plain, more = (
        scenario.workload(load=0.9, num_requests=20, confidences=asked) for asked in (False, True)
    )
    assert plain.confidence is None
    assert plain.equals(replace(more, confidence=None))
    env: Any = gym.make("laps_env/SpecDecodeReplay-v0", num_requests=5, draft_length="confidence")
    env.reset(seed=0)
    assert env.unwrapped.workload().confidence is not None


def test_less_concentrated_confidences_know_more() -> None:
    scenario = get_scenario(SERIAL)
    assert isinstance(scenario.requests, GeneratedRequests)
    vague = replace(scenario, requests=replace(scenario.requests, concentration=30.0))
    assert area_under_curve(vague) < 0.7 < area_under_curve(scenario)
    assert vague.digest != scenario.digest
    table = confidence_table(4.0)
    assert (table[:, 1] >= table[:, 0]).all()  # accepted tokens are those of which it is surer


def test_confidences_shorten_the_work_of_a_serial_server() -> None:
    scenario = get_scenario(SERIAL)
    policy = policies.make("fcfs+confidence", scenario)
    assert confident_of(policy.draft_length) is not None
    workload = scenario.workload(load=0.9, num_requests=400, split="test", confidences=True)
    fixed = busy_time_s(workload, scenario.server)
    told = busy_time_s(workload, scenario.server.with_changes(draft_length=policy.draft_length))
    assert told < 0.98 * fixed
    assert (serve(policy, workload, scenario).requests()["completion_ns"] > 0).all()


def test_its_name_says_threshold_and_longest_draft() -> None:
    assert confident_of("confidence") == Confident(0.3, 8)
    assert confident_of("confidence:0.25") == Confident(0.25, 8)
    assert confident_of("confidence:0:4") == Confident(0.0, 4)
    assert str(Confident(0.25, 4)) == "confidence:0.25:4"
    for other in ("confidence:", "confidence:2", "confidence:0.5:17", "confidence:-1", "smart", 4):
        assert confident_of(other) is None


@pytest.mark.parametrize("scenario", ["mixed-batch8-8b", "specbench-batch32-h200"])
def test_it_is_never_worse_than_the_best_fixed_length(scenario: str) -> None:
    known = get_scenario(scenario)
    rule = policies.make("fcfs+confidence", known).draft_length
    workload = known.workload(load=0.9, num_requests=400, split="test", confidences=True)
    fixed = busy_time_s(workload, known.server)
    assert busy_time_s(workload, known.server.with_changes(draft_length=rule)) < 1.005 * fixed


def without_confidences() -> Scenario:
    """A recorded scenario as of a recording that has none."""
    scenario = get_scenario("mixed-serial-135m")
    requests = scenario.requests
    assert isinstance(requests, RecordedRequests)
    train, test = (replace(t, confidence=None) for t in (requests.train, requests.test))
    return replace(scenario, requests=replace(requests, train=train, test=test))


def test_recorded_scenarios_have_the_drafts_own() -> None:
    scenario = get_scenario("mixed-serial-135m")
    policy = policies.make("fcfs+confidence", scenario)
    workload = scenario.workload(load=0.9, num_requests=20, split="test", confidences=True)
    assert workload.confidence is not None
    assert len(workload.confidence) == workload.output_tokens.sum()
    assert (serve(policy, workload, scenario).requests()["completion_ns"] > 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ServerModel(CostModel(1, 1, 0, 0, 0, 0, 0, 0), draft_length="confidence:2"),
            "0..1",
        ),
        (
            lambda: ServerModel(CostModel(1, 1, 0, 0, 0, 0, 0, 0), draft_length="confidence:x"),
            "0..1",
        ),
        (lambda: policies.make("fcfs+confidence", without_confidences()), "has none"),
        (
            lambda: gym.make(
                "laps_env/SpecDecodeReplay-v0",
                scenario=without_confidences(),
                draft_length="confidence",
            ),
            "confidence: expected recorded confidences",
        ),
        (
            lambda: serve(
                policies.make("fcfs+confidence", SERIAL),
                get_scenario(SERIAL).workload(load=0.9, num_requests=3),
                get_scenario(SERIAL),
            ),
            "workload: expected the draft's confidences",
        ),
    ],
)
def test_where_there_are_none_it_is_said(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
