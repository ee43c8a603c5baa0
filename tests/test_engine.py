"""The live engine: it never changes what the target says, whatever is done to it in between."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from laps_env.live.drafters import DraftModel, PromptLookup  # noqa: E402
from laps_env.live.engine import Engine, Generation  # noqa: E402
from laps_env.live.verification import Decoding, Draft, verify  # noqa: E402

VOCABULARY, SLOTS, LENGTH, STOP = 23, 4, 96, 5


def tiny_model(vocabulary: int = VOCABULARY) -> Any:
    """A random Llama whose layers share key-value heads."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
    )
    return transformers.LlamaForCausalLM(config).eval()


def nearly(model: Any) -> Any:
    """A draft that often, but not always, agrees."""
    draft = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    return draft


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # barriers between threads cost more than these models
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    target = tiny_model()
    return target, nearly(target)


def generate(target: Any, prompt: list[int], limit: int) -> list[int]:
    """What transformers says."""
    text = target.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=STOP,
        pad_token_id=0,
    )
    return list(text[0, len(prompt) :].tolist())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), drafter=st.sampled_from(["model", "lookup"]))
def test_the_text_is_the_target_s_own(models: tuple[Any, Any], seed: int, drafter: str) -> None:
    """Random batches, draft lengths, pauses, offloads and drops; token for token."""
    target, draft = models
    rng = np.random.default_rng(seed)
    proposer = DraftModel(draft, SLOTS, LENGTH) if drafter == "model" else PromptLookup()
    engine = Engine(target, proposer, slots=SLOTS, length=LENGTH, stop_tokens={STOP})
    prompts = [rng.integers(VOCABULARY, size=rng.integers(1, 30)).tolist() for _ in range(6)]
    all_of_them = [engine.start(prompt, int(rng.integers(1, 40))) for prompt in prompts]
    while running := [g for g in all_of_them if not g.finished]:
        size = min(len(running), int(rng.integers(1, SLOTS + 1)))
        chosen = [running[i] for i in rng.permutation(len(running))[:size]]
        make_room(engine, [g for g in running if g not in chosen], rng)
        for g, result in zip(
            chosen, engine.run_round(chosen, int(rng.integers(0, 7))), strict=True
        ):
            assert len(result.committed) <= result.accepted + 1
            assert g.output[-len(result.committed) :] == result.committed
    for g in all_of_them:
        assert g.output == generate(target, g.prompt, g.limit)
        assert g.slot is None
    assert sorted(engine._free) == list(range(SLOTS))


def make_room(engine: Engine, waiting: list[Generation], rng: np.random.Generator) -> None:
    """Some of those who wait lose their place, and all of them when slots are short."""
    for g in waiting:
        if rng.random() < 0.3 or len(engine._free) < SLOTS:
            (engine.offload if rng.random() < 0.5 else engine.drop)(g)


def test_a_good_draft_is_accepted_and_a_long_prompt_is_chunked(
    models: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laps_env.live.engine.PREFILL_CHUNK", 7)
    target, _ = models
    engine = Engine(target, DraftModel(target, 1, LENGTH), slots=1, length=LENGTH)
    g = engine.start(list(range(20)), 12)
    results = [engine.run_round([g], 3) for _ in range(3)]
    assert [(r.drafted, r.accepted) for (r,) in results] == [(3, 3)] * 3
    assert g.finished
    assert g.output == generate(target, g.prompt, 12) or STOP in g.output


@pytest.mark.parametrize("drafter", ["model", "lookup", "none"])
def test_sampling_has_the_target_s_distribution(drafter: str) -> None:
    """Chi-square of the first two tokens against the exact probabilities, temperature and top-p."""
    vocabulary, runs, decoding = 6, 6000, Decoding(temperature=0.5, top_p=0.9)
    target = tiny_model(vocabulary)
    proposer = PromptLookup() if drafter == "lookup" else DraftModel(nearly(target), 200, LENGTH)
    engine = Engine(target, proposer, slots=200, length=LENGTH, decoding=decoding)
    prompt, counts = [1, 2, 3, 1, 2], np.zeros((vocabulary, vocabulary))
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


def test_logits_that_are_not_finite_are_refused() -> None:
    target = tiny_model()
    with torch.no_grad():
        target.lm_head.weight[3, 0] = float("nan")
    engine = Engine(target, PromptLookup(), slots=1, length=20)
    with pytest.raises(FloatingPointError, match="expected finite logits, got NaN or infinity"):
        engine.run_round([engine.start([1, 2], 5)], 0)
