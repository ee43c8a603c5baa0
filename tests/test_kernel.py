"""The compiled kernel equals the reference simulator, step by step, and conserves what it must."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_pairs import NOBODY, NOT_COPIED, REWARD_SCALE, Pair, make_server, make_workload
from random_instances import random_server, random_workload

from laps_env.sim.loops import Scorer, run_rule, step_scores, step_sequential
from laps_env.sim.metrics import summarize, time_alone_ns
from laps_env.sim.observation import (
    GENERATED_TOKENS,
    PREDICTED_TOKENS,
    SELECTABLE,
    SERVER_COLUMNS,
    WAITING_S,
)
from laps_env.sim.simulation import Simulation
from laps_env.sim.state import FREE
from laps_env.utils.jit import no_preparation, rule

INSTANCES = range(500)
BLOCKS = 10  # of instances, so that a failure names a small group


def random_priorities(rng: np.random.Generator, slots: int) -> npt.NDArray[np.float64]:
    """Priorities of all slots, half of the time with many ties, now and then infinite."""
    if rng.random() < 0.5:
        return rng.integers(0, 3, slots).astype(np.float64)
    return np.where(rng.random(slots) < 0.05, np.inf, rng.normal(size=slots))


def play(
    pair: Pair, rng: np.random.Generator, whole_rounds: bool, steps: int | None = None
) -> None:
    """Both sides take the same random decisions, masked ones included, to the end or so far."""
    pair.check_observation()
    while not pair.ended and steps != 0:
        steps = None if steps is None else steps - 1
        if whole_rounds:
            pair.step_priorities(random_priorities(rng, pair.slots))
        else:
            valid = pair.valid_actions()
            anything = rng.random() < 0.2
            pair.step_pick(int(rng.integers(pair.slots + 1) if anything else rng.choice(valid)))
    pair.check_results()


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("whole_rounds", [False, True], ids=["picks", "rounds"])
def test_kernel_equals_the_reference(block: int, whole_rounds: bool) -> None:
    for seed in INSTANCES[block::BLOCKS]:
        rng = np.random.default_rng([seed, whole_rounds])
        play(Pair.random(rng), rng, whole_rounds)


def test_the_random_instances_reach_every_rule() -> None:
    """What `test_kernel_equals_the_reference` meets, so that no rule goes untested unnoticed."""
    met: set[str] = set()
    for seed in range(60):
        rng = np.random.default_rng([seed, True])
        pair = Pair.random(rng)
        play(pair, rng, whole_rounds=True)
        reference, workload = pair.reference, pair.workload
        met |= {f"victim {reference.server.victim}", f"eviction {reference.server.eviction}"}
        met |= {
            name for name in ("max_draft", "draft_schedule") if getattr(workload, name) is not None
        }
        met |= {"truncated" if reference.truncated else "terminated"}
        rule = reference.rule
        met.add(rule if isinstance(rule, str) else type(rule).__name__)
        met |= {"recomputed"} if any(r.recomputed_tokens for r in reference.requests) else set()
        met |= {"idle"} if reference.idle_ns > workload.arrival_ns[0] else set()
        met |= {"preempted"} if any(r.preemptions for r in reference.requests) else set()
    assert met >= {
        *("victim longest_idle", "victim latest_arrival", "victim largest"),
        *("eviction recompute", "eviction swap", "max_draft", "draft_schedule", "smartspec"),
        *("sglang", "rate", "tuple"),
        *("truncated", "terminated", "recomputed", "preempted", "idle"),
    }


def test_a_new_episode_forgets_the_one_before() -> None:
    for seed in range(60):
        rng = np.random.default_rng([seed, 4])
        pair = Pair.random(rng)
        play(pair, rng, whole_rounds=False, steps=int(rng.integers(100)))
        pair.restart()
        play(pair, rng, whole_rounds=bool(seed % 2))


def test_limits_count_from_the_first_arrival() -> None:
    rng = np.random.default_rng(0)
    fields = random_workload(rng)
    server = make_server(random_server(rng, fields), slots=3)
    for whole_rounds in (False, True):
        ends = []
        for first in (0, 10**6):
            fields["arrival_ns"] = np.full(fields["output_tokens"].size, first)
            pair = Pair(fields, server, 3, time_limit_ns=1000)
            play(pair, np.random.default_rng(1), whole_rounds)
            assert pair.reference.truncated
            ends.append(pair.reference.now - first)
        assert ends[0] == ends[1] >= 1000
        crowded = Pair(fields, server, 3, queue_limit=1)
        play(crowded, rng, whole_rounds)
        assert crowded.reference.truncated
        assert crowded.reference.rounds == 1


@rule
def _oldest_shortest(row: Any, server: Any, params: Any, memory: Any) -> float:
    memory[0] += (
        1.0  # how often this request was looked at (no rule to follow: rules may be called twice)
    )
    left = max(row[PREDICTED_TOKENS] - row[GENERATED_TOKENS], 1.0)
    return left - params[0] * row[WAITING_S] - params[1] * memory[0]


def run_oldest_shortest(
    pair: Pair, params: npt.NDArray[np.float64], memory: npt.NDArray[np.float64], rounds: int
) -> None:
    c, state = pair.simulation.constants, pair.simulation.state
    view = np.zeros(len(SERVER_COLUMNS), np.float32)
    no_truth, priority = np.zeros(0), np.zeros(pair.slots)
    compiled = _oldest_shortest.compiled, no_preparation.compiled
    scorer = Scorer(
        *compiled, params, view, memory, no_truth, priority, np.zeros(1, np.int8), False
    )
    run_rule(c, state, scorer, rounds)


def test_run_rule_equals_the_reference_under_the_same_rule() -> None:
    for seed in range(60):
        rng = np.random.default_rng([seed, 2])
        pair = Pair.random(rng)
        params = np.array([rng.choice([0.0, 1e3]), rng.choice([0.0, 0.125])])
        memory = np.zeros((pair.slots, 2))  # the slot's owner, then one cell
        looked_at = np.zeros(pair.workload.num_requests)
        while not pair.ended:
            queue, _ = pair.reference.observation()
            priority = np.zeros(pair.slots)
            for request in pair.reference.in_slots():
                looked_at[request.number] += 1
                row = queue[request.slot]
                left = max(row[PREDICTED_TOKENS] - row[GENERATED_TOKENS], np.float32(1.0))
                looks = params[1] * looked_at[request.number]
                priority[request.slot] = left - params[0] * np.float64(row[WAITING_S]) - looks
            pair.reference.step_priorities(list(priority))
            run_oldest_shortest(pair, params, memory, rounds=1)
            pair.check_clock()
            pair.check_observation(slice(SELECTABLE))
        pair.check_results()


def test_run_rule_stops_after_so_many_rounds_and_at_the_end() -> None:
    rng = np.random.default_rng(0)
    fields = random_workload(rng)
    pair = Pair(fields, make_server(random_server(rng, fields), slots=3), slots=3)
    server = pair.simulation.state.servers[0]
    params, memory = np.zeros(2), np.zeros((pair.slots, 2))
    run_oldest_shortest(pair, params, memory, rounds=3)
    assert server["rounds"] == 3
    run_oldest_shortest(pair, params, memory, rounds=10**6)
    assert server["finished"] == server["requests"]
    end = server.copy()
    run_oldest_shortest(pair, params, memory, rounds=1)
    assert server == end


@given(seed=st.integers(0, 2**32), whole_rounds=st.booleans())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_conservation(seed: int, whole_rounds: bool) -> None:
    """Nothing is lost or served twice; time is paid for; the return is minus the latency."""
    rng = np.random.default_rng(seed)
    fields, slots = random_workload(rng), int(rng.integers(1, 9))
    workload = make_workload(fields)
    server = make_server(random_server(rng, fields), slots)
    simulation = Simulation(server, slots=slots)
    simulation.start(0, workload)
    state, row = simulation.state, simulation.state.servers[0]
    total_reward = 0.0
    while row["finished"] < row["requests"]:
        assert row["active"] > 0  # a decision is only asked for where work waits
        before, busy, generated = int(row["now"]), int(row["busy_ns"]), _generated(simulation)
        if whole_rounds:
            priorities = random_priorities(rng, slots)[None]
            step_scores(simulation.constants, REWARD_SCALE, state, priorities, NOBODY, NOT_COPIED)
        else:
            actions = rng.integers(slots + 1, size=1)
            step_sequential(simulation.constants, REWARD_SCALE, state, actions, NOBODY, NOT_COPIED)
        total_reward += state.reward[0]
        worked = int(row["busy_ns"]) - busy
        assert (worked > 0) == state.ran_round[0]
        assert (_generated(simulation) > generated) == state.ran_round[0]
        # no time passes without work while work waits
        here = np.searchsorted(workload.arrival_ns, before + worked, side="right")
        assert row["now"] == before + worked or row["finished"] == here
        taken = state.slots["request"][0] >= 0
        context, resident = state.hot["context"][0, taken], state.slots["resident"][0, taken]
        assert row["held"] == context[resident == 1].sum() <= server.pool_tokens
        assert row["wanted"] == context.sum()
        assert row["reserved"] <= server.pool_tokens

    requests = simulation.requests()
    latency = requests["completion_ns"] - workload.arrival_ns
    assert _generated(simulation) == workload.output_tokens.sum()
    assert sorted(requests["completion_order"]) == list(range(workload.num_requests))
    assert (row["held"], row["wanted"], row["active"]) == (0, 0, 0)
    assert (state.slots[0]["request"] == FREE).all()
    assert not state.queue.any()
    assert total_reward == pytest.approx(-latency.sum() * 1e-9 / REWARD_SCALE, rel=1e-9)
    assert row["now"] == requests["completion_ns"].max()
    assert (workload.arrival_ns < requests["first_token_ns"]).all()
    assert (requests["first_token_ns"] <= requests["completion_ns"]).all()
    assert (requests["attained_ns"] + requests["longest_idle_ns"] <= latency).all()
    assert (requests["longest_idle_ns"] >= 0).all()
    attained = requests["attained_ns"].sum()
    assert row["busy_ns"] <= attained <= row["busy_ns"] * server.batch_size

    draft_length = server.draft_length if isinstance(server.draft_length, int) else 4
    alone = time_alone_ns(workload, server, draft_length)
    summary = summarize(requests, row, state.gaps[0], alone, workload.categories)
    assert summary["finished"] == summary["requests"] == workload.num_requests
    assert summary["mean_latency_s"] == pytest.approx(latency.mean() * 1e-9)
    assert summary["max_idle_s"] == pytest.approx(requests["longest_idle_ns"].max() * 1e-9)
    assert 0 < summary["utilization"] <= 1
    assert 0 < summary["jain_fairness"] < 1 + 1e-12
    if draft_length == server.draft_length and workload.draft_schedule is None:
        assert (latency >= alone).all()
        assert summary["max_slowdown"] >= summary["mean_slowdown"] >= 1


def _generated(simulation: Simulation) -> int:
    """Output tokens committed so far, those of finished requests included."""
    slots, requests = simulation.state.slots[0], simulation.requests()
    finished = requests["output_tokens"][requests["completion_ns"] > 0].sum()
    return int(finished + slots["generated"][slots["request"] >= 0].sum())


def test_time_alone_equals_the_reference_and_a_lonely_run() -> None:
    for seed in range(60):
        rng = np.random.default_rng([seed, 3])
        pair = Pair.random(rng)
        draft_length = int(rng.integers(0, 17))
        alone = time_alone_ns(pair.workload, pair.reference.server, draft_length)
        count = pair.workload.num_requests
        assert alone.tolist() == [pair.reference.alone_ns(i, draft_length) for i in range(count)]
