"""The table for other engines sees what the simulator sees, and chooses what it chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from laps_env import policies
from laps_env.policies import RuleSpec, rule
from laps_env.serving.table import SMOOTHING, Table
from laps_env.sim.loops import run_rule
from laps_env.sim.observation import (
    ARRIVAL_NUMBER,
    CACHED,
    CATEGORY,
    DRAFT_STEP_S,
    IDLE_S,
    QUEUE_COLUMNS,
    SELECTABLE,
    VERIFY_S,
)
from laps_env.sim.simulation import Simulation
from laps_env.sim.state import FREE
from laps_env.workloads.scenarios import get_scenario

SCENARIO = get_scenario("mixed-batch8-8b")
BATCH, DRAFT_LENGTH, POOL = 8, 4, 9000
NAMES = [column.name for column in QUEUE_COLUMNS]
PLAYABLE = [
    name
    for name in policies.list_policies()
    if not (spec := policies.make(name).spec).clairvoyant and spec.slots is None
]


def table_of(policy: policies.Policy, **sizes: Any) -> Table:
    return Table(
        policy, batch_size=BATCH, draft_length=DRAFT_LENGTH, pool_tokens=POOL,
        saturation_rps=2.0, **sizes,
    )  # fmt: skip


class Told:
    """A table that is told what happens on a simulated server, event by event."""

    def __init__(self, policy: policies.Policy, load: float, requests: int, **sizes: Any) -> None:
        server = SCENARIO.server.with_changes(
            batch_size=BATCH, draft_length=DRAFT_LENGTH, pool_tokens=POOL
        )
        self.workload = SCENARIO.workload(
            load=load, num_requests=requests, split="validation", seed=4
        )
        self.simulation = Simulation(server, slots=64, saturation_rps=2.0)
        self.simulation.start(0, self.workload)
        self.table = table_of(policy, **sizes)
        self.scorer = policy.scorer(64)
        self.told = 0
        self.arrive()

    def arrive(self) -> None:
        requests = self.simulation.state.requests[0]
        for number in range(self.told, int(self.server["arrived"])):
            given = requests[number]
            slot = self.table.arrive(
                int(given["arrival_ns"]), int(given["prompt_tokens"]),
                float(given["predicted_tokens"]), int(given["category"]),
            )  # fmt: skip
            assert self.simulation.state.slots["request"][0, slot] == number
        self.told = int(self.server["arrived"])

    @property
    def server(self) -> Any:
        return self.simulation.state.servers[0]

    def rank(self) -> list[int]:
        # An engine does not tell a step's draft from its verification; these are the simulator's.
        record = self.table._state.servers
        record["draft_step_ns"] = self.server["draft_step_ns"]
        record["verify_ns"] = self.server["verify_ns"]
        return self.table.rank(int(self.server["now"]), POOL - int(self.server["held"]))

    def that_fit(self, order: list[int]) -> list[int]:
        """The first of the order that the batch and the pool have room for."""
        context = self.simulation.state.hot["context"][0]
        chosen: list[int] = []
        room = POOL
        for slot in order:
            needed = int(context[slot]) + DRAFT_LENGTH + 1
            if len(chosen) < BATCH and needed <= room:
                chosen.append(slot)
                room -= needed
        return chosen

    def run_round(self) -> list[int]:
        """A round of the simulation, told to the table; the slots that were in it."""
        state = self.simulation.state
        slots = state.slots[0].copy()
        began = int(self.server["busy_ns"])
        assert run_rule(self.simulation.constants, state, self.scorer, 1) == FREE
        after = state.slots[0]
        changed = (after["request"] != slots["request"]) | (after["rounds"] != slots["rounds"])
        count = int((changed & (slots["request"] != FREE)).sum())
        picked = state.batch[0, :count].tolist()
        served, finished = [], []
        for slot in picked:
            request = state.requests[0, slots["request"][slot]]
            gone = after["request"][slot] != slots["request"][slot]
            total = request if gone else after[slot]
            drafted, accepted = (
                int(total[name] - slots[name][slot]) for name in ("drafted", "accepted")
            )
            served.append((slot, accepted + 1, drafted))
            finished += [slot] * bool(gone)
        for slot in np.flatnonzero(state.slots["resident"][0] < slots["resident"]):
            if slot not in picked and slot not in finished:
                self.table.evict(int(slot))
        self.table.end_step(
            self.ended(picked, finished), int(self.server["busy_ns"]) - began, served, decoding=True
        )
        for slot in finished:
            self.table.leave(slot)
        self.arrive()
        return picked

    def ended(self, picked: list[int], finished: list[int]) -> int:
        """End of the round: where somebody was served, or completed."""
        state = self.simulation.state
        going_on = [slot for slot in picked if slot not in finished]
        if going_on:
            return int(state.hot["served_at"][0, going_on[0]])
        return int(state.requests["completion_ns"][0].max())


@pytest.mark.parametrize("name", PLAYABLE)
def test_a_policy_sees_and_chooses_on_a_table_what_it_does_on_the_simulator(name: str) -> None:
    """Columns bit for bit and choices slot by slot, with evictions, to the last request."""
    told = Told(policies.make(name, SCENARIO), 1.3, 60)
    evictions = 0
    while told.server["finished"] < told.workload.num_requests:
        order = told.rank()
        queue, server = (told.table.observation[part].copy() for part in ("queue", "server"))
        queue[:, SELECTABLE] = 0
        expected = told.simulation.state.queue[0].copy()
        expected[:, SELECTABLE] = 0
        np.testing.assert_array_equal(queue, expected)
        np.testing.assert_array_equal(server, told.simulation.state.server_obs[0])
        evictions += int((queue[:, CACHED] == 0).sum())
        assert told.that_fit(order) == told.run_round()
    assert told.table.requests == 0
    assert evictions > 0


@pytest.mark.parametrize("name", ["laps_sd", "gittins", "learned"])
def test_more_slots_and_new_numbers_are_not_noticed(name: str) -> None:
    """Five slots grow, and the arrivals are numbered anew every few requests."""
    told = Told(policies.make(name, SCENARIO), 0.7, 200, slots=5, numbers=45)
    while told.server["finished"] < told.workload.num_requests:
        order = told.rank()
        queue = told.table.observation["queue"]
        expected = told.simulation.state.queue[0, : len(queue)]
        others = [k for k in range(queue.shape[1]) if k not in (ARRIVAL_NUMBER, SELECTABLE)]
        np.testing.assert_array_equal(queue[:, others], expected[:, others])
        np.testing.assert_array_equal(
            told.table.observation["server"], told.simulation.state.server_obs[0]
        )
        assert told.that_fit(order) == told.run_round()
    assert told.table._state.servers["arrived"][0] < told.workload.num_requests


def test_what_no_simulator_has_parts_of_a_prompt_and_smoothed_durations() -> None:
    table = table_of(policies.make("las"), draft_share=0.25)
    first, second = table.arrive(0, 100, 10.0, 1), table.arrive(0, 50, 10.0, 0)
    table.end_step(5 * 10**6, 5 * 10**6, [(first, 0, 0)], decoding=False)
    table.rank(5 * 10**6, POOL)
    row = dict(zip(NAMES, table.observation["queue"][first], strict=True))
    told = {name: row[name] for name in ("attained_s", "ran", "cached", "rounds", "category")}
    assert told == {
        "attained_s": np.float32(0.005), "ran": 1, "cached": 1, "rounds": 0, "category": 1
    }  # fmt: skip
    np.testing.assert_allclose(
        table.observation["server"][[DRAFT_STEP_S, VERIFY_S]],
        [0.25 * 0.05 / DRAFT_LENGTH, 0.75 * 0.05],  # nothing measured yet
        rtol=1e-6,
    )
    for now, duration in ((25, 20), (65, 40)):
        table.end_step(now * 10**6, duration * 10**6, [(second, 3, 4)], decoding=True)
    table.rank(65 * 10**6, POOL)
    step = 20e-3 + SMOOTHING * 20e-3
    np.testing.assert_allclose(
        table.observation["server"][[DRAFT_STEP_S, VERIFY_S]],
        [0.25 * step / DRAFT_LENGTH, 0.75 * step], rtol=1e-6,
    )  # fmt: skip


@rule
def _bad_for_category_one(row: Any, server: Any, params: Any, memory: Any) -> float:
    if row[CATEGORY] == 1 and row[IDLE_S] > 1:
        return np.nan
    return -row[ARRIVAL_NUMBER]


OWN = RuleSpec("own", "last come first served, with a fault", _bad_for_category_one, ())


def test_steps_have_a_duration_before_the_first_is_measured() -> None:
    """Networks read logarithms of times."""
    table = Table(policies.make("learned", SCENARIO), batch_size=2, draft_length=3, pool_tokens=999)
    table.arrive(0, 20, 30.0, 0)
    assert table.rank(1, 500) == [0]
    assert (table.failures, table.last_failure) == (0, None)
    assert table.observation["server"][VERIFY_S] > 0


def test_a_policy_that_fails_is_served_by_arrival_and_recovers() -> None:
    table = table_of(policies.make(OWN))
    slots = [table.arrive(k, 10, 5.0, k) for k in range(3)]
    assert table.rank(10, POOL) == slots[::-1]
    assert table.rank(3 * 10**9, POOL) == slots
    assert table.failures == 1
    assert "category 1" in str(table.last_failure)
    table.leave(slots[1])
    assert table.rank(3 * 10**9, POOL) == [slots[2], slots[0]]


def test_patience_brings_a_starving_request_to_the_front() -> None:
    """Short predictions keep coming; without patience the long one is never first."""
    for patience, starved in ((np.inf, True), (2.0, False)):
        table = table_of(policies.make("sjf"), patience_s=patience)
        long = table.arrive(0, 10, 1000.0, 0)
        first = []
        for k in range(1, 6):
            slot = table.arrive(k * 10**9, 10, 5.0, 0)
            first.append(table.rank(k * 10**9, POOL)[0])
            table.end_step(k * 10**9, 1, [(slot, 1, 0)], decoding=True)
            table.leave(slot)
        assert (long not in first) == starved
        assert starved or first.index(long) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("oracle_srpt", "expected one that knows no true length"),
        ("laps_sd+smartspec", "leaves the draft length to the engine"),
    ],
)
def test_policies_that_no_engine_can_serve_are_refused(name: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        table_of(policies.make(name))
