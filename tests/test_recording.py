"""What a recording says of a drafter, against its own probabilities worked out one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_models import tiny_pair  # noqa: E402

from laps_env.live.engine.drafters import Choices  # noqa: E402
from laps_env.live.engine.loading import Pair  # noqa: E402
from laps_env.live.engine.verification import Decoding  # noqa: E402
from laps_env.live.measure.record import Recipe, record_traces  # noqa: E402
from laps_env.live.measure.recording import Recorded, Recorder  # noqa: E402
from laps_env.live.prompts import Question  # noqa: E402
from laps_env.traces import AcceptanceTrace  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


class Keeping(Recorder):
    """Keeps the texts it measured."""

    texts: list[tuple[list[int], list[int]]]

    def _measure(self, c: Any) -> Recorded:
        self.texts.append((c.generation.prompt, list(c.generation.output)))
        return super()._measure(c)


def drafted(pair: Pair, text: list[int]) -> tuple[int, float]:
    """The token that the draft itself proposes to follow a text, and its probability."""
    engine = pair.engine(slots=1, length=128)
    with torch.inference_mode():
        hidden = pair.target.base_model(torch.tensor([text[:-1]])).last_hidden_state[0]
    engine.drafter.watch(0, 0, hidden)
    # sampled, so that the distribution is told
    choices = Choices(Decoding(temperature=1.0), [torch.Generator().manual_seed(0)], [1])
    (draft,) = engine.drafter.propose([0], [text], choices)
    assert draft.probabilities is not None
    chances = draft.probabilities[0]
    return int(chances.argmax()), float(chances.max())


@pytest.mark.parametrize("drafter", ["model", "head"])
def test_a_confidence_is_the_drafts_own_probability(drafter: str) -> None:
    pair = tiny_pair(drafter)
    recorder = Keeping(pair, limit=24, longest=24, batch=2, draft_length=2)
    recorder.texts = []
    questions = {k: Question(str(k), "chat", ("ab" * (k + 1),)) for k in range(3)}
    recorded = {group: turns[0] for group, turns in recorder.record(questions)}
    by_prompt = {len(prompt): (prompt, output) for prompt, output in recorder.texts}
    for one in recorded.values():
        prompt, output = by_prompt[one.prompt_tokens]
        assert one.confidence is not None
        assert len(one.confidence) == one.output_tokens
        for place in range(one.output_tokens):
            token, chance = drafted(pair, prompt + output[:place])
            assert one.confidence[place] == pytest.approx(255 * chance, abs=0.51)
            assert (one.accepted_length[place] > 0) == (token == output[place])


@pytest.mark.parametrize("drafter", ["model", "head", "lookup"])
def test_traces_hold_the_confidences_of_models(tmp_path: Path, drafter: str) -> None:
    lines = [f'{{"prompt": "{"ab" * (k % 7 + 1)} {k}", "category": "chat"}}' for k in range(12)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    recipe = Recipe((str(tmp_path / "prompts.jsonl"),), limit=24, longest=24, batch=3)
    record_traces(tiny_pair(drafter), recipe, tmp_path, "t", lambda parts, total, name: parts)
    trace = AcceptanceTrace.load(tmp_path / "t-test.safetensors")
    assert AcceptanceTrace.load(tmp_path / "t-lookup-test.safetensors").confidence is None
    if drafter == "lookup":
        assert trace.confidence is None
    else:
        assert trace.confidence is not None
        assert trace.confidence.dtype == np.uint8
        assert len(trace.confidence) == trace.offset[-1]
        assert trace.confidence.min() >= 255 // 23  # the likeliest of 23 tokens
