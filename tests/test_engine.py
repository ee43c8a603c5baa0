"""The live engine: it never changes what the target says, whatever is done to it in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import (  # noqa: E402
    LENGTH,
    STOP,
    VOCABULARY,
    Letters,
    nearly,
    tiny_head,
    tiny_model,
)

from laps_env.live.engine.drafters import DraftModel, PromptLookup  # noqa: E402
from laps_env.live.engine.engine import Engine, Generation  # noqa: E402
from laps_env.live.engine.head_drafter import HeadDrafter  # noqa: E402
from laps_env.live.engine.kv_slots import SlotModel  # noqa: E402
from laps_env.live.engine.stopping import Stopping  # noqa: E402
from laps_env.live.engine.verification import Decoding, Draft, verify  # noqa: E402

SLOTS = 4


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    target = tiny_model()
    return target, nearly(target)


def generate(target: Any, prompt: list[int], limit: int, stop: int | None = STOP) -> list[int]:
    """What transformers says."""
    text = target.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=0,
    )
    return list(text[0, len(prompt) :].tolist())


def likeliest(target: Any, g: Generation) -> list[int]:
    """The target's choice at every position of an output, from one pass over the text."""
    with torch.no_grad():
        logits = target(torch.tensor([g.text[:-1]])).logits[0, len(g.prompt) - 1 :]
    return list(logits.argmax(-1).tolist())


DRAFTERS: dict[str, Callable[[Any, Any], Any]] = {
    "model": lambda target, draft: DraftModel(draft, SLOTS, LENGTH),
    "head": lambda target, draft: HeadDrafter(tiny_head(target), target, SLOTS, LENGTH),
    "lookup": lambda target, draft: PromptLookup(),
}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), drafter=st.sampled_from(sorted(DRAFTERS)))
def test_the_text_is_the_target_s_own(models: tuple[Any, Any], seed: int, drafter: str) -> None:
    """Random batches, draft lengths, thresholds, pauses, offloads and drops; token for token."""
    target, draft = models
    rng = np.random.default_rng(seed)
    proposer = DRAFTERS[drafter](target, draft)
    engine = Engine(target, proposer, slots=SLOTS, length=LENGTH, stopping=Stopping({STOP}))
    prompts = [rng.integers(VOCABULARY, size=rng.integers(1, 30)).tolist() for _ in range(6)]
    all_of_them = [engine.start(prompt, int(rng.integers(1, 40))) for prompt in prompts]
    while running := [g for g in all_of_them if not g.finished]:
        size = min(len(running), int(rng.integers(1, SLOTS + 1)))
        chosen = [running[i] for i in rng.permutation(len(running))[:size]]
        make_room(engine, [g for g in running if g not in chosen], rng)
        lengths = rng.integers(0, 7, size).tolist()
        thresholds = None if drafter == "lookup" else (rng.random(size) ** 4).tolist()
        results = engine.run_round(chosen, lengths, thresholds)
        for g, result, length in zip(chosen, results, lengths, strict=True):
            assert result.drafted <= length
            assert len(result.committed) <= result.accepted + 1
            assert g.output[-len(result.committed) :] == result.committed
    for g in all_of_them:
        assert g.output == likeliest(target, g)
        assert len(g.output) == g.limit or g.output[-1] == STOP
        assert STOP not in g.output[:-1]
        assert g.slot is None
    assert sorted(engine._free) == list(range(SLOTS))


def make_room(engine: Engine, waiting: list[Generation], rng: np.random.Generator) -> None:
    """Some of those who wait lose their place, and all of them when slots are short."""
    for g in waiting:
        if rng.random() < 0.3 or len(engine._free) < SLOTS:
            (engine.offload if rng.random() < 0.5 else engine.drop)(g)


@pytest.mark.parametrize("drafter", sorted(DRAFTERS))
def test_fixed_shapes_change_nothing(models: tuple[Any, Any], drafter: str) -> None:
    """What a GPU runs as captured graphs, with the same padding, on whatever device there is."""
    target, draft = models
    texts = []
    for graphs in (False, True):
        proposer = DRAFTERS[drafter](target, draft)
        engine = Engine(target, proposer, slots=SLOTS, length=LENGTH, stopping=Stopping({STOP}))
        engine.target = SlotModel(target, SLOTS, LENGTH, graphs=graphs)
        if drafter == "model":
            proposer.model = SlotModel(draft, SLOTS, LENGTH, graphs=graphs)
        if drafter == "head":
            proposer = HeadDrafter(tiny_head(target), target, SLOTS, LENGTH, graphs=graphs)
            engine.drafter = proposer
        batch = [engine.start(list(range(6, 9 + 5 * k)), 30 + k) for k in range(3)]
        while running := [g for g in batch if not g.finished]:
            engine.run_round(running, 3)
        texts.append([g.output for g in batch])
    assert texts[0] == texts[1]


def test_a_pass_that_does_not_fit_is_done_in_parts(
    models: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, draft = models
    room = 6
    whole = SlotModel._forward

    def cramped(self: Any, fed: Any, last_logits: bool) -> Any:
        if len(fed.slots) * max(map(len, fed.tokens)) > room:
            raise torch.OutOfMemoryError("no room")
        return whole(self, fed, last_logits)

    monkeypatch.setattr(SlotModel, "_forward", cramped)
    engine = Engine(target, DRAFTERS["head"](target, draft), slots=SLOTS, length=LENGTH)
    batch = [engine.start(list(range(6, 8 + 3 * k)), 12) for k in range(SLOTS)]
    while running := [g for g in batch if not g.finished]:
        engine.run_round(running, 3)
    monkeypatch.undo()
    assert [g.output for g in batch] == [generate(target, g.prompt, 12, stop=None) for g in batch]
    room = 0
    monkeypatch.setattr(SlotModel, "_forward", cramped)
    with pytest.raises(torch.OutOfMemoryError):
        engine.run_round([engine.start([1], 3)], 0)


def test_stop_strings_end_a_text_with_the_token_that_completes_them(
    models: tuple[Any, Any],
) -> None:
    target, draft = models
    decode = Letters().decode
    engine = Engine(target, PromptLookup(), slots=1, length=LENGTH)
    free = engine.start([7, 8, 9], 40)
    while not free.finished:
        engine.run_round([free], 4)
    string = decode(free.output[11:13])
    ends = decode(free.output).index(string) + 2
    for length in (0, 1, 5):
        stopping = Stopping(strings=[string, "not there"], decode=decode)
        engine = Engine(
            target, DraftModel(draft, 1, LENGTH), slots=1, length=LENGTH, stopping=stopping
        )
        g = engine.start([7, 8, 9], 40)
        while not g.finished:
            engine.run_round([g], length)
        assert g.output == free.output[:ends]
    with pytest.raises(ValueError, match="stop strings: expected a tokenizer's decode"):
        Stopping(strings=["x"])
    with pytest.raises(ValueError, match="stop strings: expected texts of at least one character"):
        Stopping(strings=[""], decode=decode)


def test_a_good_draft_is_accepted_and_a_long_prompt_is_chunked(
    models: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laps_env.live.engine.kv_slots.PREFILL_CHUNK", 7)
    target, _ = models
    engine = Engine(target, DraftModel(target, 1, LENGTH), slots=1, length=LENGTH)
    g = engine.start(list(range(20)), 12)
    results = [engine.run_round([g], 3) for _ in range(3)]
    assert [(r.drafted, r.accepted) for (r,) in results] == [(3, 3)] * 3
    assert g.finished
    assert g.output == generate(target, g.prompt, 12) or STOP in g.output


def test_a_draft_of_n_tokens_is_n_passes(
    models: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was accepted, paused or offloaded before; a long prompt adds one a chunk."""
    target, _ = models
    drafter = DraftModel(target, SLOTS, LENGTH)
    engine = Engine(target, drafter, slots=SLOTS, length=LENGTH)
    passes: list[list[int]] = []
    forward = drafter.model.forward

    def counted(slots: Any, tokens: Any, *rest: Any, **options: Any) -> Any:
        passes.append([len(own) for own in tokens])
        return forward(slots, tokens, *rest, **options)

    monkeypatch.setattr(drafter.model, "forward", counted)
    short, other = (engine.start([7 + k, 8, 9], 60) for k in range(2))
    results = engine.run_round([short, other], 3)
    assert [r.accepted for r in results] == [3, 3]
    assert passes == [[3, 3], [1, 1], [1, 1]]
    engine.run_round([short], 0)
    engine.offload(other)
    passes.clear()
    engine.run_round([short, other], 2)  # the last draft token, and what the target said since
    assert passes == [[3, 2], [1, 1]]
    monkeypatch.setattr("laps_env.live.engine.kv_slots.PREFILL_CHUNK", 10)
    passes.clear()
    engine.run_round([short, engine.start(list(range(20)), 5)], 2)
    assert passes == [[10], [9], [2, 1], [1, 1]]


def test_a_draft_s_cache_is_that_of_the_text(models: tuple[Any, Any]) -> None:
    """A draft that is never right, in rounds with it and rounds without."""
    draft = tiny_model(seed=1)
    drafter = DraftModel(draft, 1, LENGTH)
    engine = Engine(models[0], drafter, slots=1, length=LENGTH)
    g = engine.start([7, 8, 9], 20)
    held = []
    for count in (4, 0, 0, 2, 0, 4):
        assert engine.run_round([g], count)[0].accepted == 0
        held.append(drafter._held[0])
        fresh = SlotModel(draft, 1, LENGTH)
        fresh.forward([0], [g.text[: held[-1]]], [0])
        torch.testing.assert_close(drafter.model.read(0, held[-1]), fresh.read(0, held[-1]))
    assert held == [3, 3, 3, 6, 6, 8]


@torch.inference_mode()
def test_a_head_foretells_in_bfloat16_as_in_float32(models: tuple[Any, Any]) -> None:
    """Far into a text, too: angles that were rounded would be off by radians."""
    head = tiny_head(models[0])
    tokens, states = torch.randn(2, 1, LENGTH, 32)
    positions = torch.arange(800, 800 + LENGTH)[None]
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    exact = head(tokens, states, positions, mask, lambda *own: own)
    inputs = tokens.bfloat16(), states.bfloat16()
    rounded = head.bfloat16()(*inputs, positions, mask, lambda *own: own)
    assert rounded.dtype == torch.bfloat16
    assert float((rounded - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("drafter", ["model", "lookup", "none"])
def test_sampling_has_the_target_s_distribution(drafter: str) -> None:
    """Chi-square of the first two tokens against the exact probabilities, temperature and top-p."""
    vocabulary, decoding = 6, Decoding(temperature=0.5, top_p=0.9)
    runs = 3000 if drafter == "lookup" else 6000
    target = tiny_model(vocabulary)
    proposer = PromptLookup() if drafter == "lookup" else DraftModel(nearly(target), 200, LENGTH)
    engine = Engine(target, proposer, slots=200, length=LENGTH, decoding=decoding)
    # one token, whose cache needs no pass of its own; a look-up needs one that repeats itself
    prompt = [1, 1] if drafter == "lookup" else [1]
    counts = np.zeros((vocabulary, vocabulary))
    for first in range(0, runs, 200):
        batch = [engine.start(prompt, 2, seed=first + k) for k in range(200)]
        while running := [g for g in batch if not g.finished]:
            engine.run_round(running, 0 if drafter == "none" else 2)
        for g in batch:
            counts[g.output[0], g.output[1]] += 1
    expected = runs * exact_pairs(target, prompt, decoding)
    assert counts[expected == 0].sum() == 0  # top-p cuts what it says
    enough = expected >= 5
    chi_square = ((counts - expected)[enough] ** 2 / expected[enough]).sum()
    degrees = enough.sum() - 1
    assert chi_square < degrees + 4 * np.sqrt(2 * degrees)


def exact_pairs(target: Any, prompt: list[int], decoding: Decoding) -> np.ndarray:
    """Probability of each pair of first tokens."""

    def after(text: list[int]) -> np.ndarray:
        with torch.no_grad():
            logits = target(torch.tensor([text])).logits[0, -1]
        return decoding.probabilities(logits).numpy().astype(np.float64)

    first = after(prompt)
    return np.stack([first[a] * after([*prompt, a]) for a in range(len(first))])


def test_rejection_by_hand() -> None:
    """p = (.5, .5, 0), q = (0, 0, 1): token 2 is always rejected, the rest is p itself."""
    logits = torch.log(torch.tensor([[0.5, 0.5, 1e-30], [1 / 3, 1 / 3, 1 / 3]]))
    draft = Draft([2], torch.tensor([[0.0, 0.0, 1.0]]))
    rng = torch.Generator().manual_seed(0)
    results = [verify(draft, logits, Decoding(temperature=1.0), rng) for _ in range(2000)]
    assert {accepted for accepted, _ in results} == {0}
    share = np.mean([token == 0 for _, token in results])
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / 2000)


def test_bad_input(models: tuple[Any, Any]) -> None:
    target, _ = models
    engine = Engine(target, PromptLookup(), slots=1, length=10)
    with pytest.raises(ValueError, match="prompt: expected at least one token, got none"):
        engine.start([], 3)
    with pytest.raises(ValueError, match=r"limit: expected 1\.\.2 output tokens .* got 3"):
        engine.start([1] * 8, 3)
    with pytest.raises(ValueError, match=f"length: expected 1..{LENGTH}, .* got {LENGTH + 1}"):
        Engine(target, PromptLookup(), slots=1, length=LENGTH + 1)
    with pytest.raises(ValueError, match="temperature: expected a number >= 0, got -1"):
        Decoding(temperature=-1)
    with pytest.raises(ValueError, match=r"top_p: expected a number in \(0, 1\], got 0"):
        Decoding(top_p=0)
    first, second = engine.start([1], 5), engine.start([2], 5)
    engine.run_round([first], 0)
    with pytest.raises(RuntimeError, match="slots: expected 1 free, got 0; offload or drop"):
        engine.run_round([second], 0)


def test_logits_that_are_not_finite_are_refused_and_nothing_is_lost() -> None:
    target = tiny_model()
    engine = Engine(target, DraftModel(target, 1, LENGTH), slots=1, length=LENGTH)
    g = engine.start([1, 2], 20)
    engine.run_round([g], 3)
    before = list(g.output)
    weight = target.lm_head.weight.detach().clone()
    with torch.no_grad():
        target.lm_head.weight[3, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="expected finite logits, got NaN or infinity"):
        engine.run_round([g], 3)
    assert g.output == before
    with torch.no_grad():
        target.lm_head.weight.copy_(weight)
    while not g.finished:
        assert engine.run_round([g], 3)[0].accepted == 3
    assert g.output == likeliest(target, g)
