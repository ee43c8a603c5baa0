"""One rule, two ways to run it: the same play by `predict` and by the kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from observed import Row, observe

import laps_env
from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.sim.loops import run_rule
from laps_env.sim.observation import IDLE_ROUNDS, PREDICTED_TOKENS
from laps_env.sim.simulation import Simulation
from laps_env.utils.splits import Split
from laps_env.workloads.scenarios import Scenario, get_scenario


def pressed(name: str, pool_tokens: int) -> Scenario:
    """A named scenario with short requests, and a pool that holds few of them."""
    scenario = get_scenario(name)
    assert hasattr(scenario.requests, "longest_tokens")
    return replace(
        scenario,
        requests=replace(scenario.requests, longest_tokens=120),  # type: ignore[type-var]
        server=scenario.server.with_changes(pool_tokens=pool_tokens),
        saturation_rps=dict.fromkeys(Split, 20.0 if scenario.server.batch_size > 1 else 5.0),
    )


#: Batches of 8 with a pool that evicts; one at a time with long waits (promotions come into play).
SETTINGS = {
    "batch": (pressed("mixed-batch8-8b", 700), 12),
    "serial": (pressed("mixed-serial-8b", 500), 9),
}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize(
    "name", [*policies.list_policies(), "laps_sd+smartspec", "learned_index+smartspec", "fcfs+vllm"]
)
def test_predict_is_the_kernels_loop_round_by_round(name: str, kind: str) -> None:
    """The same states after every round; and to look twice at an observation changes nothing."""
    scenario, slots = SETTINGS[kind]
    policy = policies.make(name, scenario)
    workload = scenario.workload(
        load=1.3, num_requests=40, split="validation", seed=4, confidences=policy.spec.drafts
    )
    env = gym.make(
        laps_env.ENV_IDS[0],
        scenario=scenario,
        slots=slots,
        num_requests=1,
        draft_length=policy.draft_length,
    )
    bare: Any = env.unwrapped
    observation, _ = env.reset(seed=0, options={"workload": workload})
    played = bare._envs.simulation
    looped = Simulation(
        bare.options.server, slots=slots, saturation_rps=scenario.saturation("train")
    )
    looped.start(0, workload)
    acting = policy
    if policy.spec.clairvoyant:
        acting = policy.with_oracle(workload, bare.options.server)
    scorer = acting.scorer(slots)
    state, over, rounds = None, False, 0
    while not over:
        action, state = acting.predict(observation, state)
        again, same = acting.predict(observation, state)
        assert again == action
        np.testing.assert_array_equal(same, state)
        if policy.spec.drafts:
            longest, threshold = acting.asked(state, slots)
            bare.ask_drafts(longest[0], threshold[0])
        observation, _, over, _, info = env.step(action)
        assert not info["invalid_action"]
        if info["round"]:
            run_rule(looped.constants, looped.state, scorer, 1)
            rounds += 1
            assert played.state.servers[0]["now"] == looped.state.servers[0]["now"]
            np.testing.assert_array_equal(played.state.slots[0], looped.state.slots[0])
    np.testing.assert_array_equal(played.requests(), looped.requests())
    assert rounds == looped.state.servers[0]["rounds"]
    served = serve(policy, workload, scenario, slots=slots)
    if not (policy.spec.clairvoyant and policy.draft_length):
        np.testing.assert_array_equal(served.requests(), looped.requests())


def test_the_play_meets_pressure_pre_emption_and_promotion() -> None:
    """What the settings above reach, so that no branch of a rule goes unplayed unnoticed."""
    scenario, slots = SETTINGS["batch"]
    workload = scenario.workload(load=1.3, num_requests=40, split="validation", seed=4)
    requests = serve(policies.make("laps_sd", scenario), workload, scenario, slots=slots).requests()
    assert requests["preemptions"].sum() > 20
    assert requests["recomputed_tokens"].sum() > 100
    scenario, slots = SETTINGS["serial"]
    workload = scenario.workload(load=1.3, num_requests=40, split="validation", seed=4)
    requests = serve(
        policies.make("fastserve", scenario), workload, scenario, slots=slots
    ).requests()
    assert requests["longest_idle_ns"].max() > 3e9


def test_predict_takes_a_vector_and_forgets_an_ended_episode() -> None:
    policy = policies.make("vllm_ltr")
    rows: list[Row] = [{PREDICTED_TOKENS: 90, IDLE_ROUNDS: 200}, {PREDICTED_TOKENS: 10}]
    one = observe(rows)
    both = {name: np.stack([part, part]) for name, part in one.items()}
    actions, state = policy.predict(both)
    assert actions.tolist() == [0, 0]
    both["queue"][:, 0, IDLE_ROUNDS] = 0
    actions, _ = policy.predict(both, state, np.array([False, True]))
    assert actions.tolist() == [0, 1]  # row 1 began anew, so nobody is promoted there
