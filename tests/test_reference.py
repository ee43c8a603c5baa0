"""The reference simulator against schedules worked out by hand, and its conservation laws."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from random_instances import random_server, random_workload
from reference import ReferenceServer
from reference_observation import QUEUE, SERVER

FCFS = [0, 1, 2]
SHORTEST_FIRST = [4, 3, 1]  # by output length
START = 3  # the action that starts the round of three slots


def toy_workload(**changes: Any) -> SimpleNamespace:
    """A, B and C: arrivals 0, 100, 150 ns; prompts 10, 5, 6; outputs 4, 3, 1 tokens."""
    fields: dict[str, Any] = {
        "arrival_ns": [0, 100, 150],
        "prompt_tokens": [10, 5, 6],
        "output_tokens": [4, 3, 1],
        "predicted_tokens": [4.0, 3.0, 1.0],
        "category": [0, 0, 1],
        "offset": [0, 4, 7, 8],
        "accepted_length": [*(0, 1, 2, 0), *(1, 0, 2), 1],
        "max_draft": None,
        "limits_ns": None,
        "draft_schedule": None,
        "draft_schedule_offset": None,
    }
    return SimpleNamespace(**(fields | changes))


def toy_server(cost: dict[str, float] | None = None, **changes: Any) -> SimpleNamespace:
    """One request at a time, two draft tokens (look-ahead 3), a pool of 20 tokens.

    A round of ctx tokens of context then takes, in ns,
        overhead 5 + target pass 100 + 2 * 3 verified + 1 * ctx + 2 steps * 10 + 2 drafted * 3
        = 137 + ctx, and with prefill 2 * ctx + 7 more.
    """
    costs = {
        "overhead_ns": 5.0,
        "target_pass_ns": 100.0,
        "target_token_ns": 2.0,
        "target_kv_token_ns": 1.0,
        "draft_step_ns": 10.0,
        "draft_token_ns": 3.0,
        "draft_kv_token_ns": 0.0,
        "prefill_request_ns": 7.0,
        "swap_request_ns": 9.0,
        "swap_token_ns": 4.0,
    }
    fields: dict[str, Any] = {
        "cost": SimpleNamespace(**(costs | (cost or {}))),
        "batch_size": 1,
        "draft_length": 2,
        "pool_tokens": 20,
        "eviction": "recompute",
        "victim": "longest_idle",
        "acceptance_window": 10,
    }
    return SimpleNamespace(**(fields | changes))


def run_toy(simulator: ReferenceServer, by_number: list[int]) -> list[int]:
    """Run to the end with priorities by arrival number; the integral of every round, ns."""
    integrals = []
    while not (simulator.terminated or simulator.truncated):
        before = simulator.integral_ns
        simulator.step_priorities([by_number[r.number] if r else 0 for r in simulator.table])
        integrals.append(simulator.integral_ns - before)
    return integrals


def of_requests(simulator: ReferenceServer, name: str) -> list[int]:
    return [getattr(request, name) for request in simulator.requests]


def test_first_come_first_served_by_hand() -> None:
    # t0   runs  ctx  duration                  t1   generated     integral
    #   0  A      10  137 + 10 + 2*10 + 7 = 174 174  run 0: 0 + 1  174 + (174-100) + (174-150) = 272
    # 174  A      11  137 + 11            = 148 322  run 1: 1 + 2  3 * 148 = 444
    # 322  A      13  137 + 13            = 150 472  run 0: 3 + 1  3 * 150 = 450, A ends
    # 472  B       5  137 +  5 + 2*5  + 7 = 159 631  run 1: 0 + 2  2 * 159 = 318
    # 631  B       7  137 +  7            = 144 775  run 2: 2 + 1  2 * 144 = 288, B ends (1 of 3)
    # 775  C       6  137 +  6 + 2*6  + 7 = 162 937  run 1: 0 + 1  1 * 162 = 162, C ends (1 of 2)
    simulator = ReferenceServer(toy_workload(), toy_server(), slots=3)
    assert run_toy(simulator, FCFS) == [272, 444, 450, 318, 288, 162]
    assert simulator.completed == [0, 1, 2]
    assert of_requests(simulator, "first_token_ns") == [174, 631, 937]
    assert of_requests(simulator, "completion_ns") == [472, 775, 937]
    assert of_requests(simulator, "attained_ns") == [472, 303, 162]
    assert of_requests(simulator, "preemptions") == [0, 0, 0]
    # (drafted, accepted) counts drafts past the end: B accepts 2 where it commits 1.
    assert [r.history for r in simulator.requests] == [
        [(2, 0), (2, 1), (2, 0)],
        [(2, 1), (2, 2)],
        [(2, 1)],
    ]
    # Latencies 472 + (775 - 100) + (937 - 150).
    assert simulator.integral_ns == 472 + 675 + 787
    assert [simulator.alone_ns(i, 2) for i in range(3)] == [472, 303, 162]


def test_shortest_first_by_hand_with_an_eviction() -> None:
    # t0   runs  pool                     duration                  t1   generated   integral
    #   0  A     10+3                     137 + 10 + 2*10 + 7 = 174 174  0 + 1       272 as above
    # 174  C     6+3 + A 11 = 20, fits    137 +  6 + 2*6  + 7 = 162 336  0 + 1       3 * 162 = 486
    # 336  B     5+3 + A 11 = 19, fits    137 +  5 + 2*5  + 7 = 159 495  0 + 2       2 * 159 = 318
    # 495  B     7+3 + A 11 = 21 > 20: A  137 +  7            = 144 639  2 + 1       2 * 144 = 288
    # 639  A     11+3, recomputes 11      137 + 11 + 2*11 + 7 = 177 816  1 + 2       1 * 177 = 177
    # 816  A     13+3                     137 + 13            = 150 966  3 + 1       1 * 150 = 150
    # A is pre-empted once, at 174: it runs in no round before the later ones.
    simulator = ReferenceServer(toy_workload(), toy_server(), slots=3)
    assert run_toy(simulator, SHORTEST_FIRST) == [272, 486, 318, 288, 177, 150]
    assert simulator.completed == [2, 1, 0]
    assert of_requests(simulator, "first_token_ns") == [174, 495, 336]
    assert of_requests(simulator, "completion_ns") == [966, 639, 336]
    assert of_requests(simulator, "attained_ns") == [174 + 177 + 150, 303, 162]
    assert of_requests(simulator, "preemptions") == [1, 0, 0]
    assert of_requests(simulator, "recomputed_tokens") == [11, 0, 0]
    assert simulator.integral_ns == 966 + (639 - 100) + (336 - 150)


def test_swap_is_paid_out_and_in() -> None:
    # As above, but at 495 A's 11 tokens go out, 144 + 9 + 4*11 = 197, until 692;
    # they come back at 692 in 137 + 11 + 9 + 4*11 = 201, until 893; the last round ends at 1043.
    simulator = ReferenceServer(toy_workload(), toy_server(eviction="swap"), slots=3)
    run_toy(simulator, SHORTEST_FIRST)
    assert of_requests(simulator, "completion_ns") == [1043, 692, 336]
    assert of_requests(simulator, "recomputed_tokens") == [0, 0, 0]


def test_batch_of_two_by_hand_through_single_picks() -> None:
    simulator = ReferenceServer(toy_workload(), toy_server(batch_size=2, pool_tokens=30), slots=3)
    # A is alone, so nothing is selectable after it: its round starts by itself.
    assert simulator.step(0) == (-(272 * 1e-9), 174, True, False, False, False)
    assert simulator.step(1)[:4] == (0.0, 0, False, False)
    # B 5+3 is picked; A 11+3 and C 6+3 fit into the 22 tokens left.
    assert simulator.selectable() == {0, 2}
    # C fills the batch. B 8 + C 9 + resident A 11 = 28 <= 30. verify 6, prefill 11, ctx 11:
    # 5 + 100 + 2*(6+11) + 11 + 10*2 + 3*4 + 7*2 = 196, until 370; B generates 2, C ends.
    assert simulator.step(2)[1:4] == (196, True, False)
    assert simulator.now == 370
    assert simulator.completed == [2]
    # B is picked; picking an empty slot is masked and starts B alone: 137 + 7 = 144, until 514.
    simulator.step(1)
    assert simulator.step(2)[1:] == (144, True, True, False, False)
    # Starting an empty round is masked: A, the earliest arrival, runs alone, 137 + 11 = 148.
    assert simulator.step(START)[1:] == (148, True, True, False, False)
    assert simulator.step(0)[1:] == (150, True, False, True, False)
    assert simulator.now == 514 + 148 + 150
    with pytest.raises(ValueError, match="running episode"):
        simulator.step(0)


def test_pool_limits_the_batch() -> None:
    # 20 tokens hold A 11+3 but not C 6+3 beside it, so A's round starts by itself.
    simulator = ReferenceServer(toy_workload(), toy_server(batch_size=2), slots=3)
    simulator.step(0)
    assert simulator.step(0)[1:3] == (148, True)


def test_victims() -> None:
    # C is longer here. After one round each of A, B, C, their 11 + 7 + 8 tokens are resident (C's
    # round: 6+3 + 11 + 7 = 27 <= 28). A's second round needs 11+3 and leaves 14 for 15 tokens:
    # of B and C, B has been idle longest; C came last and is the largest.
    workload = toy_workload(
        output_tokens=[4, 3, 3],
        offset=[0, 4, 7, 10],
        accepted_length=[0, 1, 2, 0, 1, 0, 2, 1, 0, 0],
    )
    for victim, number in (("longest_idle", 1), ("latest_arrival", 2), ("largest", 2)):
        simulator = ReferenceServer(workload, toy_server(pool_tokens=28, victim=victim), slots=3)
        for slot in (0, 1, 2, 0):
            simulator.step(slot)
        resident = {request.number for request in simulator.requests if request.resident}
        assert resident == {0, 1, 2} - {number}


def test_observation_by_hand() -> None:
    # Shortest-first, at 495 after three rounds: A waits and is resident, B has just run.
    simulator = ReferenceServer(toy_workload(), toy_server(), slots=3, saturation_rps=1e7)
    for slot in (0, 2, 1):
        simulator.step(slot)
    queue, server = simulator.observation()
    ns = 1e-9
    a = [1, 0, 495 * ns, 10, 4, 1, 1, 2, 0, 2, 0, 0, 0, 174 * ns, (495 - 174) * ns, 2]
    b = [1, 1, 395 * ns, 5, 3, 2, 1, 2, 1, 2, 1, 0.5, 0, 159 * ns, 0, 0]
    no_limits = [3600.0] * 3
    flags_a = [0, 0, 1, 0, 1, *no_limits]  # picked, ran, cached, category, selectable
    flags_b = [0, 1, 1, 0, 1, *no_limits]
    expected = np.array([a + flags_a, b + flags_b, [0] * len(QUEUE)]).astype(np.float32)
    np.testing.assert_array_equal(queue, expected)
    # Draft step (10*2 + 3*2) / 2 = 13; verification 5 + 100 + 2*3 + 5 = 116 (B's prompt);
    # free 20 - 11 - 7; load 2 / 150 ns / 1e7.
    load = 2 / (150 * ns) / 1e7
    expected = np.array([1, 2, 13 * ns, 116 * ns, 2, 0, (495 - 150) * ns, load]).astype(np.float32)
    np.testing.assert_array_equal(server, expected)
    assert len(server) == len(SERVER)


def test_backlog_waits_for_a_slot_in_arrival_order() -> None:
    simulator = ReferenceServer(toy_workload(), toy_server(), slots=1)
    assert run_toy(simulator, SHORTEST_FIRST) == [272, 444, 450, 318, 288, 162]  # as FCFS
    assert simulator.completed == [0, 1, 2]


def test_limits() -> None:
    simulator = ReferenceServer(toy_workload(), toy_server(), slots=1, time_limit_ns=322)
    run_toy(simulator, FCFS)
    assert (simulator.now, simulator.truncated, simulator.terminated) == (322, True, False)
    simulator = ReferenceServer(toy_workload(), toy_server(), slots=1, queue_limit=2)
    run_toy(simulator, FCFS)  # three in the system, two of them in the backlog
    assert (simulator.now, simulator.truncated) == (174, True)
    late = toy_workload(arrival_ns=[0, 1000, 1000])
    # The jump from 472 to an arrival at 1000 stops at the limit.
    simulator = ReferenceServer(late, toy_server(), slots=1, time_limit_ns=900)
    run_toy(simulator, FCFS)
    assert (simulator.now, simulator.idle_ns, simulator.truncated) == (900, 900 - 472, True)


def test_smartspec_by_hand() -> None:
    # alpha = 1/2 at first; tokens per pass 1, 1.5, 1.75, 1.875 over 100, 110, 120, 130:
    # 0.0100, 0.0136, 0.01458, 0.01442: k = 2. Both drafts are accepted: alpha = (2+1) / (2+2),
    # tokens 3.0508, 3.2881, 3.4661 over 140, 150, 160: 0.02179, 0.02192, 0.02166: k = 5.
    # Five more are accepted: hits = trials = 0.99 * 2 + 5.
    cost = dict.fromkeys(vars(toy_server().cost), 0.0)
    cost |= {"target_pass_ns": 100.0, "draft_step_ns": 10.0}
    server = toy_server(cost, draft_length="smartspec", pool_tokens=100)
    workload = toy_workload(
        arrival_ns=[0], output_tokens=[30], offset=[0, 30], accepted_length=[9] * 30
    )
    simulator = ReferenceServer(workload, server, slots=1)
    assert simulator.step(0)[1] == 120
    assert simulator.step(0)[1] == 150
    assert simulator.requests[0].history == [(2, 2), (5, 5)]
    assert simulator.hits == simulator.trials == 0.99 * 2 + 5


def test_schedule_and_proposable_by_hand() -> None:
    # A alone: lengths 4, 0, 3 by own round, of which 1, 4, 0, 2 may be proposed by position.
    # Round 1: min(4, 1) = 1 drafted, 0 accepted; round 2 at 1: min(0, 4) = 0, nothing accepted;
    # round 3 at 2: min(3, 0) = 0; round 4 at 3: min(5, 2) = 2.
    workload = toy_workload(
        arrival_ns=[0],
        draft_schedule=[4, 0, 3, 5],
        draft_schedule_offset=[0, 4],
        max_draft=[1, 4, 0, 2],
    )
    simulator = ReferenceServer(workload, toy_server(pool_tokens=270), slots=1)
    # 105 + 2*(1+1+10) + 10 + 10*1 + 3*1 + 7 = 159
    assert simulator.step(0)[1] == 159
    assert simulator.observation()[1][1] == 4  # the length in force, not what was drafted
    run_toy(simulator, FCFS)
    assert simulator.requests[0].history == [(1, 0), (0, 0), (0, 0), (2, 0)]
    # At length 2: 1, 2, 2 drafted at 0, 1, 3; 159 + 148 + 150.
    assert simulator.alone_ns(0, 2) == 159 + 148 + 150


@pytest.mark.parametrize("seed", range(200))
def test_conservation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    workload = random_workload(rng)
    server = random_server(rng, workload)
    cost = SimpleNamespace(**server.pop("cost"))
    slots = int(rng.integers(1, 9))
    simulator = ReferenceServer(
        SimpleNamespace(**workload), SimpleNamespace(**server, cost=cost), slots, reward_scale=7.0
    )
    whole_rounds = rng.random() < 0.5
    first, elapsed, total_reward, rounds = simulator.now, 0, 0.0, 0
    while not simulator.terminated:
        selectable = simulator.selectable()
        queue, _ = simulator.observation()
        assert np.isfinite(queue).all()
        assert set(np.flatnonzero(queue[:, QUEUE.index("selectable")])) == selectable
        assert selectable or simulator.picked  # no time without work while work waits
        if whole_rounds:
            result = simulator.step_priorities(list(rng.uniform(size=slots)))
        else:
            action = int(rng.integers(0, slots + 1))
            masked = action not in selectable and (action < slots or not simulator.picked)
            result = simulator.step(action)
            assert result[3] == masked
        reward, dt, ran_round, *_ = result
        total_reward, elapsed, rounds = total_reward + reward, elapsed + dt, rounds + ran_round
        assert ran_round or dt == 0
        resident = sum(r.context for r in simulator.requests if r.resident)
        assert resident <= server["pool_tokens"]

    requests = simulator.requests
    latency = sum(r.completion_ns - r.arrival_ns for r in requests)
    assert sorted(simulator.completed) == list(range(len(requests)))
    assert simulator.integral_ns == latency
    assert total_reward == pytest.approx(-latency * 1e-9 / 7.0)
    assert (simulator.rounds, simulator.now) == (rounds, first + elapsed)
    for request in requests:
        assert request.generated == request.length
        assert request.arrival_ns < request.first_token_ns <= request.completion_ns
        assert request.attained_ns <= request.completion_ns - request.arrival_ns
        assert request.preemptions < len(request.history) <= request.length
    busy = simulator.now - simulator.idle_ns
    attained = sum(r.attained_ns for r in requests)
    assert busy <= attained <= busy * server["batch_size"]
    if len(requests) == 1 and simulator.rule is None and workload["draft_schedule"] is None:
        assert requests[0].attained_ns == simulator.alone_ns(0, simulator.nominal)
