"""Recording sampled texts: the probability of acceptance, worked out one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_models import tiny_pair  # noqa: E402

from laps_env.cli.record import Record  # noqa: E402
from laps_env.live.engine.drafters import Choices, PromptLookup  # noqa: E402
from laps_env.live.engine.engine import RoundResult  # noqa: E402
from laps_env.live.engine.loading import Pair  # noqa: E402
from laps_env.live.engine.verification import Decoding  # noqa: E402
from laps_env.live.measure.record import Recipe, record_traces  # noqa: E402
from laps_env.live.measure.recording import Recorded, Recorder  # noqa: E402
from laps_env.live.measure.sampling import drawn_lengths, lookup_acceptance, overlap  # noqa: E402
from laps_env.live.prompts import Question  # noqa: E402
from laps_env.traces import AcceptanceTrace  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

WARM = Decoding(temperature=0.2)  # random models are nearly indifferent: this makes them differ


class Keeping(Recorder):
    """Keeps the texts it measured."""

    texts: dict[int, list[int]]

    def _measure(self, c: Any) -> Recorded:
        self.texts[c.group] = [*c.generation.prompt, *c.generation.output]
        return super()._measure(c)


def recorded_by(
    pair: Pair, count: int = 3, decoding: Decoding = WARM
) -> tuple[dict[int, Recorded], dict[int, list[int]]]:
    """Answers and their texts by number."""
    recorder = Keeping(pair, limit=24, longest=24, batch=4, draft_length=2, decoding=decoding)
    recorder.texts = {}
    questions = {k: Question(str(k), "chat", (f"{'ab' * (k % 5 + 1)}{k}",)) for k in range(count)}
    return {group: turns[0] for group, turns in recorder.record(questions)}, recorder.texts


def target_of(pair: Pair, text: list[int]) -> Any:
    """Probabilities of the token that follows a text, by transformers' own pass."""
    with torch.inference_mode():
        return (pair.target(torch.tensor([text])).logits[0, -1] / WARM.temperature).softmax(-1)


def draft_of(pair: Pair, text: list[int]) -> Any:
    """Those of the draft's first token, as it proposes one."""
    engine = pair.engine(slots=1, length=128)
    with torch.inference_mode():
        hidden = pair.target.base_model(torch.tensor([text[:-1]])).last_hidden_state[0]
    engine.drafter.watch(0, 0, hidden)
    choices = Choices(WARM, [torch.Generator().manual_seed(0)], [1])
    (draft,) = engine.drafter.propose([0], [text], choices)
    if draft.probabilities is not None:
        return draft.probabilities[0]
    certain = torch.zeros(pair.target.config.vocab_size)
    certain[draft.tokens] = 1.0
    return certain


@pytest.mark.parametrize("drafter", ["model", "head", "lookup"])
def test_it_is_the_overlap_of_the_models_own_probabilities(drafter: str) -> None:
    pair = tiny_pair(drafter)
    recorded, texts = recorded_by(pair)
    for group, one in recorded.items():
        assert one.acceptance is not None
        assert len(one.acceptance) == one.output_tokens
        for position in range(0, one.output_tokens, 5):
            text = texts[group][: one.prompt_tokens + position]
            p, q = target_of(pair, text), draft_of(pair, text)
            by_hand = sum(min(float(a), float(b)) for a, b in zip(p, q, strict=True))
            assert one.acceptance[position] == pytest.approx(by_hand, abs=1e-4)
            assert one.lookup_acceptance is not None
            guess = PromptLookup().continuation(text)[:1]
            expected = float(p[guess[0]]) if guess else 0.0
            assert one.lookup_acceptance[position] == pytest.approx(expected, abs=1e-4)


def test_the_overlap_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.1, 0.2, 0.7]])
    assert overlap(p.log(), q.log(), Decoding(1.0)) == pytest.approx([0.1 + 0.2 + 0.2])
    squared = [0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38], [0.01 / 0.54, 0.04 / 0.54, 0.49 / 0.54]
    halved = overlap(p.log(), q.log(), Decoding(0.5))  # temperature 1/2 squares both
    assert halved == pytest.approx([sum(map(min, *squared))])
    # 1 2 1 came before 2: the draft is certain of a 2
    assert lookup_acceptance([1, 2, 1, 0], p.log(), Decoding(1.0)) == pytest.approx([0.2])


def test_a_prompt_of_one_token_gives_a_head_nothing_to_draft_from() -> None:
    pair = tiny_pair("head")
    recorder = Recorder(pair, limit=8, longest=24, decoding=WARM)
    ((_, (one,)),) = recorder.record({0: Question("0", "chat", ("a",))})
    assert one.prompt_tokens == 1
    assert one.acceptance is not None
    assert one.acceptance[0] == 0
    assert min(one.acceptance[1:]) > 0


def test_one_draw_agrees_with_the_rounds() -> None:
    rounds = [(0, RoundResult(3, 1, [7, 7])), (2, RoundResult(1, 1, [7, 7]))]
    rng = np.random.default_rng(0)
    assert drawn_lengths([0.0] * 5, rounds, rng) == [1, 0, 1, 0, 0]
    assert drawn_lengths([1.0] * 5, rounds, rng) == [1, 0, 3, 2, 1]  # 1 of 3 ended the first
    assert max(drawn_lengths([1.0] * 300, [], rng)) == 255


@pytest.mark.parametrize("drafter", ["model", "head", "lookup"])
def test_traces_hold_it_and_their_rounds_replay(drafter: str, tmp_path: Path) -> None:
    lines = [f'{{"prompt": "{"ab" * (k % 7 + 1)} {k}", "category": "chat"}}' for k in range(24)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    recipe = Recipe((str(tmp_path / "prompts.jsonl"),), 24, 24, 6, 3, temperature=0.2)
    record_traces(tiny_pair(drafter), recipe, tmp_path, "pair", lambda parts, total, name: parts)
    for path in sorted(tmp_path.glob("pair-*.safetensors")):
        trace = AcceptanceTrace.load(path)  # checked: range, and that the rounds agree
        assert trace.acceptance is not None
        assert trace.info.decoding["temperature"] == 0.2
        assert trace.info.provenance["corrected_positions"] == 0
        if trace.max_draft is not None:
            assert (trace.acceptance[trace.max_draft == 0] == 0).all()


def test_rounds_accept_as_often_as_it_says() -> None:
    recorded, _ = recorded_by(tiny_pair("model"), count=60)
    likely, hits = [], []
    for one in recorded.values():
        assert one.acceptance is not None
        starts = np.cumsum([0, *one.committed])[:-1]
        likely += [one.acceptance[start] for start in starts]
        hits += [min(one.accepted_length[start], 1) for start in starts]
    p = np.array(likely)
    assert 0.1 < p.mean() < 0.95
    error = np.sqrt((p * (1 - p)).sum())
    assert abs(np.sum(hits) - p.sum()) < 4 * error


def test_the_draws_of_an_answer_are_those_of_its_number() -> None:
    pair = tiny_pair("model")
    recorder = Keeping(pair, limit=24, longest=24, decoding=WARM)
    recorder.texts = {}
    asked = {k: Question("same", "chat", ("abc",)) for k in range(3)}
    list(recorder.record(asked))
    assert len({tuple(text[:27]) for text in recorder.texts.values()}) == 3
    again = Keeping(pair, limit=24, longest=24, batch=1, decoding=WARM)
    again.texts = {}
    list(again.record({1: asked[1]}))
    assert again.texts[1][:20] == recorder.texts[1][:20]


def test_greedy_recordings_have_none() -> None:
    recorded, _ = recorded_by(tiny_pair("model"), count=1, decoding=Decoding())
    assert (recorded[0].acceptance, recorded[0].lookup_acceptance) == (None, None)


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_a_temperature_out_of_range_is_refused(temperature: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="temperature: expected a number >= 0, got"):
        Record(prompts=("p.jsonl",), out=tmp_path, name="x", temperature=temperature).run()
