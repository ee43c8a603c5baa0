"""Recorded acceptance: real passes of random weights behind any workload of the replay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from env_play import MOODY, follow  # noqa: E402
from gymnasium.utils.env_checker import check_env  # noqa: E402
from random_instances import random_server, random_workload  # noqa: E402
from tiny_models import tiny_pair  # noqa: E402

import laps_env  # noqa: E402
from laps_env import policies  # noqa: E402
from laps_env.evaluation.grid import Grid  # noqa: E402
from laps_env.evaluation.runner import Evaluation  # noqa: E402
from laps_env.live.backend import LiveBackend  # noqa: E402
from laps_env.live.engine.acceptance import Recorded  # noqa: E402
from laps_env.live.engine.loading import load_pair  # noqa: E402
from laps_env.live.engine.random_weights import ARCHITECTURES  # noqa: E402
from laps_env.live.engine.verification import Draft  # noqa: E402
from laps_env.sim.costs import CostModel  # noqa: E402
from laps_env.sim.server_model import ServerModel  # noqa: E402
from laps_env.workloads import Workload  # noqa: E402
from laps_env.workloads.scenarios import get_scenario  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def instance(seed: int) -> tuple[Workload, ServerModel]:
    """A random workload and server, without a draft schedule."""
    rng = np.random.default_rng(seed)
    drawn = random_workload(rng) | {"draft_schedule": None, "draft_schedule_offset": None}
    server = random_server(rng, drawn)
    cost = CostModel(**server.pop("cost"))
    del drawn["offset"]
    return Workload(**drawn), ServerModel(cost=cost, **server)


def recorded(pair: Any, **options: Any) -> Any:
    """The live environment that serves recordings."""
    given = {"target": pair, "acceptance": "recorded", "clock": "calibrated"}
    return gym.make(laps_env.LIVE_ID, **given | options).unwrapped


def drafted_in(env: Any) -> list[int]:
    """Tokens that the engine drafts from now on, request by request and round by round."""
    drafted: list[int] = []
    env._envs.note = lambda index, generation, result: drafted.append(result.drafted)
    return drafted


#: Instances with evictions of both kinds, short drafts, and SmartSpec, in few rounds.
SEEDS = (11, 24, 35, 48)


@pytest.mark.parametrize(
    ("policy", "drafter"),
    [
        ("fcfs", "model"),
        ("las", "model"),
        ("sprpt", "model"),
        ("laps_sd", "model"),
        ("laps_sd", "head"),
        ("laps_sd", "lookup"),
    ],
)
def test_an_episode_equals_the_replay_bit_for_bit(policy: str, drafter: str) -> None:
    """Every observation, reward, duration, mask and metric, by the cost model's clock."""
    pair, rule = tiny_pair(drafter), policies.make(policy, "demo")
    recomputed = 0
    for seed in SEEDS:
        workload, server = instance(seed)
        scenario = replace(get_scenario("demo"), server=server)
        options: dict[str, Any] = {"scenario": scenario, "slots": 8, "num_requests": 5}
        env = recorded(pair, **options)
        replay: Any = gym.make(laps_env.REPLAY_IDS[0], **options).unwrapped
        here = follow(rule, env, {"workload": workload})
        there = follow(rule, replay, {"workload": workload})
        summary, expected = here.pop(), there.pop()
        np.testing.assert_equal(here, there)
        assert {name: summary[name] for name in expected} == expected
        written = [len(g.output) for g in env._envs.generations]
        assert written == workload.output_tokens.tolist()
        recomputed += expected["recomputed_tokens"]
    assert recomputed > 0


@pytest.mark.parametrize("drafter", ["model", "lookup"])
@pytest.mark.parametrize(
    ("policy", "draft_length"),
    [(policies.make("las", "demo"), "confidence:0.4:7"), (MOODY, "policy")],
)
def test_recorded_confidences_stop_drafts_as_in_the_replay(
    policy: policies.Policy, draft_length: str, drafter: str
) -> None:
    """The engine drafts for each request just what its recording says."""
    for seed in SEEDS:
        workload, server = instance(seed)
        told = np.random.default_rng(seed).integers(120, 256, len(workload.accepted_length))
        sure = replace(workload, confidence=told.astype(np.uint8))
        server = server.with_changes(draft_length=draft_length)
        scenario = replace(get_scenario("demo"), server=server)
        options: dict[str, Any] = {"scenario": scenario, "slots": 8, "num_requests": 5}
        env = recorded(tiny_pair(drafter), **options)
        drafted = drafted_in(env)
        here = follow(policy, env, {"workload": sure})
        replay = gym.make(laps_env.REPLAY_IDS[0], **options).unwrapped
        there = follow(policy, replay, {"workload": sure})
        summary, expected = here.pop(), there.pop()
        np.testing.assert_equal(here, there)
        assert {name: summary[name] for name in expected} == expected
        assert sum(drafted) == env.simulation.requests()["drafted"].sum()
        assert len(set(drafted)) > 3
    with pytest.raises(ValueError, match="workload: expected the draft's confidences"):
        env.reset(options={"workload": workload})


def test_a_recording_by_hand() -> None:
    """Three positions: 2, 0 and 9 accepted, of at most 5, 3 and 1 drafted."""
    draft, choices, logits = Draft([7, 7, 7, 7]), [1, 2, 3, 4, 5], torch.empty(0)
    told = Recorded([2, 0, 9], [5, 3, 1])
    fitted = [told.fit(k, draft, 4) for k in range(3)]
    assert [len(own.tokens) for own in fitted] == [4, 3, 1]
    accepted = [told.accept(k, own, choices, logits) for k, own in enumerate(fitted)]
    assert accepted == [(2, 3), (0, 1), (1, 2)]
    assert Recorded([2]).fit(0, Draft([7]), 3).tokens == [7, 0, 0]  # a look-up that found little


def tiny_architecture(folder: Path, **sizes: int) -> str:
    """Its name; of a model that a process has room for."""
    config = {
        "model_type": "llama",
        "vocab_size": 61,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | sizes))
    return f"random:{folder}"


@pytest.fixture
def names(tmp_path: Path) -> dict[str, Any]:
    return {
        "target": tiny_architecture(tmp_path / "big", num_hidden_layers=2),
        "draft": tiny_architecture(tmp_path / "small"),
    }


def test_the_live_id_runs_on_random_weights(names: dict[str, Any]) -> None:
    """What Gymnasium and sb3-contrib expect of an environment, with a generated workload."""
    contrib = pytest.importorskip("sb3_contrib")
    env = gym.make(
        laps_env.LIVE_ID,
        **names,
        acceptance="recorded",
        scenario="math-batch8-8b",
        num_requests=3,
        slots=4,
        batch_size=2,
        device="cpu",
    )
    # rounds of the measured clock are never twice the same
    check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
    model = contrib.MaskablePPO("MultiInputPolicy", env, n_steps=32, batch_size=16, n_epochs=1)
    model.learn(32)
    live: Any = env.unwrapped
    assert live.provenance()["acceptance"] == "recorded"
    assert live._envs.captures == 0


def test_policies_are_evaluated_on_random_weights(names: dict[str, Any]) -> None:
    grid = Grid(
        policies=("fcfs", "laps_sd"),
        scenarios=("math-batch8-8b",),
        loads=(0.9,),
        episodes=1,
        num_requests=4,
        slots=8,
    )
    pair = load_pair(**names, device="cpu")
    evaluation = Evaluation(grid, backend=LiveBackend(pair, acceptance="recorded"))
    evaluation.run()
    for row in evaluation.results().rows:
        assert row.source["acceptance"] == "recorded"
        assert row.source["target"].endswith("big")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-2-7b", 6_738_415_616),
        ("llama-68m", 68_030_208),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.2-1b", 1_235_814_400),
    ],
)
def test_known_architectures_have_the_sizes_of_the_models(name: str, parameters: int) -> None:
    config = transformers.AutoConfig.from_pretrained(ARCHITECTURES / name)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_a_model_type_has_its_default_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def note(config: Any, **options: Any) -> Any:
        sizes.append(config.hidden_size)
        raise ValueError("seen")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_config", note)
    with pytest.raises(ValueError, match="expected a causal language model, got 'llama'"):
        load_pair("random:llama", "prompt-lookup", device="cpu")
    assert sizes == [4096]


def test_random_weights_that_cannot_serve_are_refused(
    names: dict[str, Any], tmp_path: Path
) -> None:
    other = tiny_architecture(tmp_path / "other", vocab_size=62)
    with pytest.raises(ValueError, match=r"target: expected one of llama-2-7b, .* got 'gpt-9'"):
        load_pair("random:gpt-9", "prompt-lookup", device="cpu")
    with pytest.raises(
        ValueError, match=r"draft: expected the target's vocabulary of 61 .* got 62"
    ):
        load_pair(names["target"], other, device="cpu")
    with pytest.raises(ValueError, match="expected a checkpoint with a tokenizer"):
        gym.make(laps_env.LIVE_ID, **names, device="cpu")
    with pytest.raises(ValueError, match="acceptance: expected one of live, recorded; got 'mine'"):
        gym.make(laps_env.LIVE_ID, **names, acceptance="mine")
    short = tiny_architecture(tmp_path / "short", max_position_embeddings=128)
    env = gym.make(laps_env.LIVE_ID, target=short, draft=short, acceptance="recorded", device="cpu")
    with pytest.raises(ValueError, match="requests of at most 111 tokens in the models' context"):
        env.reset(seed=0)
