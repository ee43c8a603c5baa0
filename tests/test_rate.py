"""Drafting by each request's own acceptance: by hand, against all choices and the reference."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from kernel_pairs import Pair, make_server
from random_instances import random_server, random_workload

from laps_env import policies
from laps_env.sim.costs import CostModel
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH
from laps_env.sim.loops import step_scores
from laps_env.sim.rate import PRIOR_TOKENS
from laps_env.sim.server_model import ServerModel
from laps_env.sim.simulation import Simulation
from laps_env.workloads import Workload

BLOCKS = 5

#: A pass of 100 ns, 10 for each draft step, 4 for each verified token.
PLAIN = CostModel(0, 100, 4, 0, 10, 0, 0, 0)


def simulation_of(cost: CostModel, prompts: list[int], accepted: list[int]) -> Simulation:
    """Requests of 60 tokens that are all there, each with one accepted length at all positions."""
    count = len(prompts)
    workload = Workload(
        arrival_ns=np.zeros(count, np.int64),
        prompt_tokens=np.array(prompts),
        output_tokens=np.full(count, 60),
        predicted_tokens=np.full(count, 60.0),
        category=np.zeros(count, np.int64),
        accepted_length=np.repeat(np.array(accepted, np.uint8), 60),
    )
    simulation = Simulation(ServerModel(cost, count, draft_length="rate"), slots=count)
    simulation.start(0, workload)
    return simulation


def round_of(simulation: Simulation) -> list[int]:
    """Tokens that each request drafts in a round of all of them."""
    nobody, not_copied = np.zeros(1, np.bool_), np.zeros((0, 1, 1), np.float32)
    first = np.zeros((1, simulation.slots))
    step_scores(simulation.constants, 1.0, simulation.state, first, nobody, not_copied)
    drafted: list[int] = simulation.state.slots[0]["drafting"].tolist()
    return drafted


def lengths(cost: CostModel, prompts: list[int], decided: list[tuple[int, int]]) -> list[int]:
    """What a round drafts where so many tokens of each were accepted, and so many refused."""
    simulation = simulation_of(cost, prompts, [0] * len(prompts))
    slots = simulation.state.slots[0]
    slots["accepted"], slots["refused"] = zip(*decided, strict=True)
    return round_of(simulation)


def test_lengths_as_worked_out_by_hand() -> None:
    # The mean is 1/2 and counts for 20 tokens: alpha 30/40 = .75 and 10/40 = .25. A drafts .75,
    # .5625, .4219, .3164 and B .25, .0625, in 108 ns + 10 a step + 4 a token. Tokens over time:
    # (1, 1) 3/126 = .0238 < (2, 1) 3.5625/140 = .0254 < (3, 1) 3.9844/154 = .0259, more than
    # (4, 1) 4.3008/168 = .0256, (3, 2) 4.0469/158 = .0256 and (3, 0) 3.7344/150 = .0249
    assert lengths(PLAIN, [1, 1], [(20, 0), (0, 20)]) == [3, 1]


@pytest.mark.parametrize("seed", range(40))
def test_no_other_lengths_are_faster(seed: int) -> None:
    """Of all lengths of up to three requests, whose draft tokens cost more the longer they are."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 4))
    names = ("target_token_ns", "target_kv_token_ns", "draft_step_ns", "draft_token_ns")
    pay = dict(zip(names, rng.uniform(0, (9, 0.2, 20, 2)) * rng.integers(0, 2, 4), strict=True))
    read_ns = float(rng.choice([0.0, 0.05]))
    plain: dict[str, Any] = {
        "overhead_ns": 0,
        "target_pass_ns": 100,
        "prefill_request_ns": 0,
        "swap_token_ns": 0,
    }
    cost = CostModel(**plain, **pay, draft_kv_token_ns=read_ns)
    contexts, decided = rng.integers(1, 200, count), rng.integers(0, 80, (count, 2))

    alphas = (decided[:, 0] + PRIOR_TOKENS / 2) / (decided.sum(axis=1) + PRIOR_TOKENS)
    tried = np.array(list(product(range(MAX_DRAFT_LENGTH + 1), repeat=count)))
    expected = ((1 - alphas ** (tried + 1)) / (1 - alphas)).sum(axis=1)
    time = 100 + pay["target_token_ns"] * (count + tried.sum(axis=1))
    time += pay["target_kv_token_ns"] * contexts.sum() + pay["draft_step_ns"] * tried.max(axis=1)
    time += pay["draft_token_ns"] * tried.sum(axis=1) + read_ns * (tried @ contexts)
    speed = expected / time

    found = lengths(cost, contexts.tolist(), [(a, r) for a, r in decided.tolist()])
    own = speed[(tried == found).all(axis=1)]
    assert own == pytest.approx(speed.max(), rel=1e-12)


def test_who_is_accepted_drafts_longer() -> None:
    """Both begin with two tokens; then all that A drafts is accepted, and nothing of B's."""
    simulation = simulation_of(PLAIN, [1, 1], [16, 0])
    found = [round_of(simulation) for _ in range(10)]
    assert found[0] == [2, 2]
    assert found[-1] == [7, 3]  # few of B's own tokens are decided, and the mean is high


@pytest.mark.parametrize("block", range(BLOCKS))
def test_kernel_equals_the_reference(block: int) -> None:
    for seed in range(block, 150, BLOCKS):
        rng = np.random.default_rng([seed, 37])
        fields = random_workload(rng)
        slots = int(rng.integers(1, 9))
        server = make_server(random_server(rng, fields) | {"draft_length": "rate"}, slots)
        pair = Pair(fields, server, slots)
        while not pair.ended:
            pair.step_pick(int(rng.choice(pair.valid_actions())))
        pair.check_results()


def test_where_it_cannot_be_it_is_said() -> None:
    with pytest.raises(ValueError, match=r"expected 0\.\.16, .*'rate' or.*, got 'rates'"):
        ServerModel(PLAIN, draft_length="rates")
    with pytest.raises(ValueError, match=r"\+rate"):
        policies.make("fcfs+rate:5")
