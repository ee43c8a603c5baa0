"""Drafts that stop where they are unsure, and drafts that are asked for, on real models."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from env_play import MOODY, follow  # noqa: E402
from tiny_models import LENGTH, nearly, tiny_model, tiny_pair  # noqa: E402

import laps_env  # noqa: E402
from laps_env import policies  # noqa: E402
from laps_env.live.engine import drafters  # noqa: E402
from laps_env.live.engine.drafters import Choices, DraftModel, PromptLookup  # noqa: E402
from laps_env.live.engine.engine import Engine, Generation  # noqa: E402
from laps_env.live.engine.verification import Decoding  # noqa: E402
from laps_env.sim.confidence import confident_length  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

CROWDED = {"load": 3.0, "num_requests": 12, "slots": 6, "batch_size": 3}


# -- the engine -----------------------------------------------------------------------------------


def drafted_by(monkeypatch: pytest.MonkeyPatch, told: Any, lengths: Any, thresholds: Any) -> Any:
    """Steps of a batch whose drafts state these confidences [steps, batch], and their lengths."""
    monkeypatch.setattr(drafters, "confidence_of", lambda logits: logits)
    chosen = Choices(Decoding(), [torch.Generator()] * len(lengths), lengths, thresholds)
    while not chosen.complete:
        stated = torch.tensor(told[len(chosen.tokens)])
        chosen.add([0] * len(lengths), partial(torch.clone, stated))
    return len(chosen.tokens), [len(draft.tokens) for draft in chosen.drafts()]


def test_drafts_stop_as_worked_out_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """1, 0.6, 0.24 of the first; a longest of 2; one that is never unsure enough for 0."""
    told = [[255, 255, 0], [153, 255, 0], [102, 255, 0], [255, 255, 0], [255, 255, 0]]
    stops = [0.3, 0.9, 0.0]
    assert drafted_by(monkeypatch, told, [8, 2, 4], stops) == (4, [3, 2, 4])
    assert drafted_by(monkeypatch, told, [8, 2, 1], stops) == (3, [3, 2, 1])


@given(data=st.data())
def test_the_engine_stops_where_the_kernel_does(data: st.DataObject) -> None:
    told = data.draw(st.lists(st.integers(0, 255), min_size=16, max_size=16))
    longest = data.draw(st.integers(1, 16))
    threshold = data.draw(st.floats(0, 1) | st.sampled_from([153 / 255, (153 / 255) ** 2, 1.0]))
    with pytest.MonkeyPatch.context() as patch:
        steps, (length,) = drafted_by(patch, [[t] for t in told], [longest], [threshold])
    confidence = np.array(told, np.uint8)
    assert length == steps == confident_length(confidence, 0, 16, longest, threshold)


def counted(drafter: DraftModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sequences of each pass of a draft model from now on."""
    passes: list[int] = []
    forward = drafter.model.forward

    def noting(slots: Any, *rest: Any, **options: Any) -> Any:
        passes.append(len(slots))
        return forward(slots, *rest, **options)

    monkeypatch.setattr(drafter.model, "forward", noting)
    return passes


def test_passes_go_on_until_all_drafts_have_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny_model()
    drafter = DraftModel(nearly(target), 2, LENGTH)
    engine = Engine(target, drafter, slots=2, length=LENGTH)
    passes = counted(drafter, monkeypatch)
    batch = [engine.start([7 + k, 8, 9], 60) for k in range(2)]
    for lengths, thresholds, drafted in (
        ([4, 4], [0.0, 0.0], [4, 4]),
        ([6, 6], [1.0, 1.0], [1, 1]),  # random weights are never certain
        ([6, 3], [1.0, 0.0], [1, 3]),
        ([0, 2], None, [0, 2]),
        ([0, 0], [0.5, 0.5], [0, 0]),
    ):
        passes.clear()
        assert [r.drafted for r in engine.run_round(batch, lengths, thresholds)] == drafted
        assert passes == [2] * max(drafted)
    with pytest.raises(ValueError, match="expected a drafter with confidences, got prompt lookup"):
        Engine(target, PromptLookup(), slots=1, length=LENGTH).run_round(batch[:1], [3], [0.5])


def test_a_sampled_text_does_not_depend_on_its_neighbour_s_draft() -> None:
    """A draft that has ended takes no more draws, however long the batch goes on."""
    target = tiny_model()
    draft, decoding = nearly(target), Decoding(temperature=1.0)
    texts = []
    for other in (0, 2, 7):
        drafter = DraftModel(draft, 2, LENGTH)
        engine = Engine(target, drafter, slots=2, length=LENGTH, decoding=decoding)
        one, neighbour = (engine.start([7, 8, 9 + k], 30, seed=k) for k in range(2))
        while not one.finished:
            batch = [g for g in (one, neighbour) if not g.finished]
            engine.run_round(batch, [2, other][: len(batch)], [0.01, 0.0][: len(batch)])
        texts.append(one.output)
    assert texts[0] == texts[1] == texts[2]


# -- the live server ------------------------------------------------------------------------------


def sharp_pair(drafter: str) -> Any:
    """A pair whose drafts are sometimes sure; its greedy texts are those of `tiny_pair`."""
    pair: Any = tiny_pair(drafter)
    with torch.no_grad():
        pair.target.lm_head.weight.mul_(20)
        if drafter == "model":
            pair.draft.lm_head.weight.mul_(20)
    return pair


def live(drafter: str = "model", **options: Any) -> Any:
    given: dict[str, Any] = {
        "target": sharp_pair(drafter),
        "max_new_tokens": 20,
        "clock": "calibrated",
    }
    return gym.make(laps_env.LIVE_ID, **given | CROWDED | options).unwrapped


def replay(env: Any, interface: str = "sequential", **options: Any) -> Any:
    """The replay that a live environment's workload goes to."""
    given = {"scenario": env.options.scenario, "interface": interface}
    return gym.make(laps_env.REPLAY_IDS[0], **given | CROWDED | options).unwrapped


def check_equal(here: list[Any], there: list[Any]) -> None:
    """Two trajectories, with their summaries at the end."""
    summary, expected = here.pop(), there.pop()
    np.testing.assert_equal(here, there)
    assert {name: summary[name] for name in expected} == expected


def told_rounds(env: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Tokens that the engine drafts in each round from now on, request by request."""
    rounds: list[list[int]] = []
    run_round = Engine.run_round

    def noting(self: Engine, chosen: list[Generation], *rest: Any) -> Any:
        results = run_round(self, chosen, *rest)
        rounds.append([result.drafted for result in results])
        return results

    monkeypatch.setattr(Engine, "run_round", noting)
    return rounds


PLAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "by confidences": (policies.make("laps_sd", "demo"), {"draft_length": "confidence:0.3:6"}),
    "with evictions": (
        policies.make("las", "demo"),
        {"draft_length": "confidence:0.2:5", "pool_tokens": 90},
    ),
    "by their rates": (policies.make("laps_sd", "demo"), {"draft_length": "rate"}),
    "asked": (MOODY, {"draft_length": "policy"}),
    "learned": (policies.make("learned_joint", "demo"), {"draft_length": "policy"}),
}


@pytest.mark.parametrize("drafter", ["model", "head"])
@pytest.mark.parametrize("play", sorted(PLAYS))
def test_what_has_come_true_replays_bit_for_bit(
    drafter: str, play: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, options = PLAYS[play]
    env = live(drafter, **options)
    rounds = told_rounds(env, monkeypatch)
    here = follow(policy, env, {})
    requests = env.simulation.requests()
    assert requests["drafted"].sum() == sum(map(sum, rounds))
    assert play == "learned" or len({n for own in rounds for n in own}) >= 3
    there = follow(policy, replay(env, **options), {"workload": env.workload()})
    check_equal(here, there)


def test_texts_do_not_depend_on_thresholds() -> None:
    texts = []
    for length in (4, "confidence:0:4", "confidence:0.4:6", "confidence:1:8"):
        env = live(draft_length=length)
        texts.append(follow(policies.make("fcfs", "demo"), env, {})[-1]["texts"])
    assert texts[0] == texts[1] == texts[2] == texts[3]


def test_a_threshold_of_zero_is_the_fixed_length() -> None:
    fcfs = policies.make("fcfs", "demo")
    fixed, never = (follow(fcfs, live(draft_length=n), {}) for n in (4, "confidence:0:4"))
    assert fixed[-1] | {"scheduling_s": 0} == never[-1] | {"scheduling_s": 0}


@pytest.mark.parametrize(
    ("drafter", "options"),
    [("model", {}), ("lookup", {}), ("model", {"draft_length": "confidence:0.3:2"})],
)
def test_an_agent_s_drafts_replay_bit_for_bit(drafter: str, options: dict[str, Any]) -> None:
    env = live(drafter, interface="drafts", **options)
    assert env.action_space == gym.spaces.MultiDiscrete([7, 17])
    here = act(env, {})
    assert max(env.workload().max_draft) > 2
    there = act(replay(env, "drafts", **options), {"workload": env.workload()})
    check_equal(here, there)


def act(env: Any, options: dict[str, Any]) -> list[Any]:
    """What random picks and draft lengths meet, some of them masked."""
    rng = np.random.default_rng(5)
    seen: list[Any] = [env.reset(seed=3, options=options)]
    ended = False
    while not ended:
        valid = np.flatnonzero(seen[-1][-1]["action_mask"])
        pick = rng.integers(7) if rng.random() < 0.1 else rng.choice(valid)
        seen.append(env.step(np.array([pick, rng.integers(17)])))
        ended = seen[-1][2]
    return [*seen, seen[-1][-1].pop("summary")]


def test_the_measured_clock_waits_for_no_new_shape() -> None:
    for options in ({"draft_length": "confidence:0.3:6"}, {"draft_length": "policy"}):
        env = live(clock="measured", **options)
        follow(MOODY, env, {})
        assert env._envs.captures == 0


@pytest.mark.parametrize(
    ("drafter", "options", "message"),
    [
        ("model", {"draft_length": "topk:4"}, "draft_length: expected a number.* got 'topk:4'"),
        ("lookup", {"draft_length": "policy"}, "draft: expected a drafter with confidences"),
        ("lookup", {"draft_length": "confidence"}, "'confidence', got prompt lookup"),
        (
            "model",
            {"draft_length": "smartspec", "interface": "drafts"},
            "expected a number or a threshold .* for the interface 'drafts'",
        ),
        ("model", {"interface": "mind"}, "interface: expected one of"),
    ],
)
def test_what_cannot_be_served_is_refused(
    drafter: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        live(drafter, **options)
