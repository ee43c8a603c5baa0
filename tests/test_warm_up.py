"""Warming up: no pass of a later round has a shape that has not come up before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_models import VOCABULARY, nearly, tiny_head, tiny_model  # noqa: E402

from laps_env.live.engine.drafters import DraftModel, PromptLookup  # noqa: E402
from laps_env.live.engine.engine import Engine, Generation  # noqa: E402
from laps_env.live.engine.head_drafter import HeadDrafter  # noqa: E402
from laps_env.live.engine.kv_slots import SlotModel  # noqa: E402

#: A draft of a text of almost the longest sees more tokens than the text has.
SLOTS, LENGTH, LONGEST, DRAFT = 4, 80, 63, 3

pytestmark = pytest.mark.usefixtures("one_thread", "small_steps")


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short texts, too, see different numbers of tokens and are prefilled in several chunks."""
    monkeypatch.setattr("laps_env.live.engine.graphs.VISIBLE_STEP", 16)
    monkeypatch.setattr("laps_env.live.engine.kv_slots.PREFILL_CHUNK", 8)


def make_engine(drafter: str, graphs: bool, device: str = "cpu") -> Engine:
    target = tiny_model().to(device)
    made: Any = {
        "model": lambda: DraftModel(nearly(target), SLOTS, LENGTH),
        "head": lambda: HeadDrafter(tiny_head(target), target, SLOTS, LENGTH, graphs=graphs),
        "lookup": PromptLookup,
    }[drafter]()
    engine = Engine(target, made, slots=SLOTS, length=LENGTH)
    engine.target = SlotModel(target, SLOTS, LENGTH, graphs=graphs)
    if drafter == "model":
        made.model = SlotModel(made.model.model, SLOTS, LENGTH, graphs=graphs)
    return engine


def serve(engine: Engine) -> tuple[list[int], list[Generation]]:
    """Captures of each round, under random batches, offloads and drops; and the texts."""
    rng = np.random.default_rng(0)
    batch = [
        engine.start(rng.integers(VOCABULARY, size=length).tolist(), LONGEST - length)
        for length in (2, 9, 17, 40)
    ]
    captures = []
    while running := [g for g in batch if not g.finished]:
        chosen = [g for g in running if rng.random() < 0.6] or running[:1]
        captures.append((engine.run_round(chosen, DRAFT), engine.times.captures)[1])
        for g in running:
            if not g.finished and rng.random() < 0.1:
                (engine.offload if rng.random() < 0.5 else engine.drop)(g)
    return captures, batch


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("drafter", ["model", "head", "lookup"])
def test_no_round_captures_after_a_warm_up(drafter: str, graphs: bool) -> None:
    cold, expected = serve(make_engine(drafter, graphs))
    assert cold[0] > 0
    assert sum(captured > 0 for captured in cold) > 3
    engine = make_engine(drafter, graphs)
    engine.warm_up(range(1, SLOTS + 1), [DRAFT], LONGEST)
    captures, texts = serve(engine)
    assert set(captures) == {0}
    assert [g.output for g in texts] == [g.output for g in expected]


@pytest.mark.gpu
@pytest.mark.parametrize("drafter", ["model", "head", "lookup"])
def test_no_round_captures_on_a_gpu(drafter: str) -> None:
    engine = make_engine(drafter, graphs=True, device="cuda")
    engine.warm_up(range(1, SLOTS + 1), [DRAFT], LONGEST)
    captures, _ = serve(engine)
    assert set(captures) == {0}


@pytest.mark.parametrize("drafter", ["model", "lookup"])
def test_a_warm_up_leaves_sequences_alone(drafter: str) -> None:
    engine = make_engine(drafter, graphs=True)
    resting = engine.start([7, 8, 9, 10], 30)
    engine.run_round([resting], DRAFT)
    engine.warm_up([1, SLOTS], [DRAFT], LENGTH)
    while not resting.finished:
        engine.run_round([resting], DRAFT)
    alone = make_engine(drafter, graphs=True)
    expected = alone.start([7, 8, 9, 10], 30)
    while not expected.finished:
        alone.run_round([expected], DRAFT)
    assert resting.output == expected.output


def test_what_is_captured_by_hand() -> None:
    """Texts of up to 20 tokens, prefilled by 8, and batches of 1 and 3, filled up to 4.

    A chunk that begins at 0 or 8 sees 16 tokens, one from 16 on, of at most 4, sees 32. A look-up
    drafts 0 to 3 tokens.
    """
    engine = make_engine("lookup", graphs=False)
    engine.warm_up([1, 3], [3], 20)
    prefills = {(1, t, 16, True) for t in (1, 2, 4, 8)} | {(1, t, 32, True) for t in (1, 2, 4)}
    drafts = {(b, t, v, False) for b in (1, 4) for t in (1, 2, 4) for v in (16, 32)}
    assert engine.target._shapes == prefills | drafts
    assert engine.target.captures == 7 + 12
