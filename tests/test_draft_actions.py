"""Actions that say how much to draft: the reference agrees, a toy's sum is worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
from env_play import DRAFTS
from kernel_pairs import Pair, make_server, one_request
from random_instances import random_server, random_workload

from laps_env.agents.vec_env import ReplayVecEnv
from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.sim.costs import CostModel
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH
from laps_env.sim.server_model import ServerModel
from laps_env.workloads import Workload
from laps_env.workloads.scenarios import get_scenario

BLOCKS = 5
SMALL: dict[str, Any] = {
    "scenario": "mixed-batch8-8b",
    "batch_size": 2,
    "slots": 6,
    "num_requests": 6,
}


def random_pair(rng: np.random.Generator) -> Pair:
    """A random instance without a schedule, whose pool holds its longest request with 17 drafts."""
    fields = random_workload(rng) | {"draft_schedule": None, "draft_schedule_offset": None}
    slots = int(rng.integers(1, 9))
    rule: Any = 3
    if rng.random() < 0.5:
        rule = f"confidence:{rng.random():.2f}:{rng.integers(17)}"
        tokens = int(fields["output_tokens"].sum())
        fields["confidence"] = rng.integers(0, 256, tokens).astype(np.uint8)
    server = make_server(random_server(rng, fields) | {"draft_length": rule}, slots)
    longest = int((fields["prompt_tokens"] + fields["output_tokens"]).max()) + MAX_DRAFT_LENGTH + 1
    pool = max(server.pool_tokens, longest)
    return Pair(fields, server.with_changes(pool_tokens=pool), slots, drafts_by_agent=True)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_kernel_equals_the_reference(block: int) -> None:
    for seed in range(block, 200, BLOCKS):
        rng = np.random.default_rng([seed, 17])
        pair = random_pair(rng)
        while not pair.ended:
            anything = rng.random() < 0.2
            pick = rng.integers(pair.slots + 1) if anything else rng.choice(pair.valid_actions())
            pair.step_draft(int(pick), int(rng.integers(MAX_DRAFT_LENGTH + 1)))
        pair.check_results()


def toy(draft_length: Any, accepted: list[int], **fields: Any) -> Any:
    """One request on a server where a pass takes 10 ms and a draft step 1 ms more, begun."""
    chat = get_scenario("chat-serial-8b")
    workload = one_request(accepted, categories=chat.requests.categories, **fields)
    cost = CostModel(1e6, 9e6, 0, 0, 1e6, 0, 0, 0)
    scenario = replace(chat, server=ServerModel(cost, draft_length=draft_length))
    env = gym.make(DRAFTS, scenario=scenario, num_requests=1, slots=2)
    env.reset(options={"workload": workload})
    return env


@pytest.mark.parametrize(
    ("drafts", "milliseconds"),
    [
        # positions 0, 4, 5, 8: drafts 3, 0, 2, 0 are all accepted
        ([3, 0, 2, 0], 4 * 10 + 3 + 0 + 2 + 0),
        # one token a round
        ([0] * 9, 9 * 10),
        # 16 at every position: 4 rounds, of which 5 drafts are accepted and 59 are paid for
        ([16] * 4, 4 * 10 + 4 * 16),
    ],
)
def test_a_clairvoyant_draft_length_costs_what_is_worked_out_by_hand(
    drafts: list[int], milliseconds: int
) -> None:
    accepted = [3, 2, 1, 0, 0, 2, 1, 0, 5]
    env = toy(4, accepted)
    position = 0
    for k, draft in enumerate(drafts):
        queue, _, terminated, _, info = env.step(np.array([0, draft]))
        position += min(accepted[position], draft) + 1
        assert terminated == (k == len(drafts) - 1)
        if not terminated:
            assert queue["queue"][0, 5] == position  # generated tokens
            assert queue["server"][1] == draft
    assert info["summary"]["mean_latency_s"] == pytest.approx(milliseconds * 1e-3)


def test_what_was_asked_is_what_a_schedule_replays() -> None:
    envs = SpecDecodeReplayVectorEnv(3, interface="drafts", **SMALL)
    _, info = envs.reset(seed=5)
    rng = np.random.default_rng(0)
    asked: list[list[list[int]]] = [[[] for _ in range(6)] for _ in range(3)]
    picks: list[npt.NDArray[np.int64]] = []
    ended = np.zeros(3, np.bool_)
    finished: dict[int, list[int]] = {}
    while not ended.all():
        actions = np.array(
            [
                [rng.choice(np.flatnonzero(mask)), rng.integers(MAX_DRAFT_LENGTH + 1)]
                for mask in info["action_mask"]
            ]
        )
        slots = envs.simulation.state.slots
        for i in np.flatnonzero(~ended).tolist():
            pick, draft = actions[i]
            if pick < 6:
                asked[i][slots[i, pick]["request"]].append(int(draft))
        picks.append(actions[:, 0])
        _, _, terminated, _, info = envs.step(actions)
        for i in np.flatnonzero(terminated & ~ended).tolist():
            finished[i] = envs.simulation.requests(i)["completion_ns"].tolist()
        ended |= terminated
    for i in range(3):
        lengths = [len(rounds) for rounds in asked[i]]
        scheduled = replace(
            get_workload(5 + i),
            draft_schedule=np.concatenate(asked[i]).astype(np.uint8),
            draft_schedule_offset=np.concatenate([[0], np.cumsum(lengths)]),
        )
        env: Any = gym.make("laps_env/SpecDecodeReplay-v0", **SMALL).unwrapped
        env.reset(options={"workload": scheduled})
        for pick in (chosen[i] for chosen in picks):
            if env.step(np.int64(pick))[2]:
                break
        assert env.simulation.requests()["completion_ns"].tolist() == finished[i]


def get_workload(seed: int) -> Workload:
    env: Any = gym.make(DRAFTS, **SMALL).unwrapped
    env.reset(seed=seed)
    workload: Workload = env.workload()
    return workload


def test_a_threshold_stops_what_was_asked() -> None:
    """The longest draft is the agent's, where it stops before that the server's."""
    confidence = np.array([255, 255, 0, 255, 0, 0], np.uint8)
    env = toy("confidence:0.5:1", [2, 1, 0, 2, 1, 0], confidence=confidence)
    # of 16, 3 drafts (the third is unsure), 2 of them accepted; then the 1 that is asked, accepted;
    # then 1 of 16, which is unsure at once: 13, 11 and 11 ms
    for draft, drafted in ((16, 3), (1, 1), (16, None)):
        seen, _, ended, _, info = env.step(np.array([0, draft]))
        assert ended or seen["server"][1] == drafted
    assert info["summary"]["mean_latency_s"] == pytest.approx(35e-3)
    env.reset(options={"workload": env.unwrapped.workload()})
    seen, _, _, _, info = env.step(np.array([1, 16]))  # nobody is picked: the server's longest
    assert (info["invalid_action"], seen["server"][1]) == (True, 1)


def test_masks_and_spaces() -> None:
    env: Any = gym.make(DRAFTS, **SMALL).unwrapped
    _, info = env.reset(seed=0)
    assert env.action_space == gym.spaces.MultiDiscrete([7, 17])
    assert info["action_mask"].shape == (7,)
    masks = env.action_masks()
    assert masks.shape == (7 + 17,)
    assert masks[:7].tolist() == info["action_mask"].astype(bool).tolist()
    assert masks[7:].all()
    with pytest.raises(ValueError, match=r"draft length: expected 0\.\.16, got 17"):
        env.step(np.array([0, 17]))
    with pytest.raises(ValueError, match=r"pick: expected 0\.\.6, got 7"):
        env.step(np.array([7, 0]))
    with pytest.raises(ValueError, match=r"expected shape \(2,\)"):
        env.step(3)
    with pytest.raises(ValueError, match="draft_length: expected a number or a threshold"):
        gym.make(DRAFTS, draft_length="smartspec")
    scheduled = replace(
        env.workload(),
        draft_schedule=np.ones(int(env.workload().output_tokens.sum()), np.uint8),
        draft_schedule_offset=env.workload().offset,
    )
    with pytest.raises(ValueError, match="workload: expected no draft schedule"):
        env.reset(options={"workload": scheduled})


def test_a_masked_action_drafts_as_the_scenario_does() -> None:
    env: Any = gym.make(DRAFTS, **SMALL).unwrapped
    env.reset(seed=0)
    observation, _, _, _, info = env.step(np.array([5, 16]))  # nobody is there
    assert info["invalid_action"]
    assert observation["server"][1] == env.options.server.draft_length
    env = gym.make(DRAFTS, on_invalid="error", **SMALL).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions: expected one that"):
        env.step(np.array([5, 16]))


def test_maskable_ppo_takes_it() -> None:
    sb3_contrib = pytest.importorskip("sb3_contrib")
    servers = SpecDecodeReplayVectorEnv(2, interface="drafts", autoreset_mode="SameStep", **SMALL)
    model = sb3_contrib.MaskablePPO(
        "MultiInputPolicy", ReplayVecEnv(servers), n_steps=16, batch_size=16, n_epochs=1, seed=0
    )
    model.learn(32)
    assert model.num_timesteps == 32
