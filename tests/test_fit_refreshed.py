"""The length probe: which states it reads, and that it is fitted on *train* alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_models import tiny_model  # noqa: E402

from laps_env.traces import AcceptanceTrace, TraceInfo  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    import fit_refreshed

    monkeypatch.setattr(fit_refreshed, "LAYERS", (1,))
    return fit_refreshed


def test_states_are_those_that_chose_the_tokens(script: Any) -> None:
    from record_texts import Turn

    model = tiny_model(length=128).base_model
    rng = np.random.default_rng(0)
    prompt, output = (rng.integers(0, 23, size).tolist() for size in (5, 65))
    states = script.states_of(model, Turn("q", 0, prompt, output)).float()
    assert states.shape == (2, 1, 2, 32)  # none at the end itself
    with torch.inference_mode():
        for k, tokens in enumerate((32, 64)):
            text = torch.tensor([prompt + output[: tokens - 1]])  # the last one is not fed yet
            hidden = model(text, output_hidden_states=True).hidden_states[1][0]
            torch.testing.assert_close(states[k, 0, 0], hidden[-32:].mean(0), atol=2e-3, rtol=0)
            torch.testing.assert_close(states[k, 0, 1], hidden[-1], atol=2e-3, rtol=0)


def refreshes(script: Any, part: str, count: int, seed: int) -> Any:
    """Requests whose states tell their length, and whose predictions do not."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 321, count)
    offset = np.concatenate([[0], np.cumsum(tokens)])
    trace = AcceptanceTrace(
        accepted_length=np.zeros(offset[-1], np.uint8),
        offset=offset,
        output_tokens=tokens,
        prompt_tokens=np.full(count, 9),
        category=np.zeros(count, np.int64),
        categories=("chat",),
        info=TraceInfo("eagle", "t", decoding={"max_new_tokens": 320}, provenance={"part": part}),
        group=np.arange(count),
        predicted_tokens=np.full(count, 150.0),
    )
    data = script.Refreshes(trace, np.zeros(0))
    states = rng.normal(size=(len(data.request), 1, 2, 3))
    states[:, 0, 1, 0] = data.log_remaining
    return script.Refreshes(trace, states)


def test_the_probe_reads_the_states(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {part: refreshes(script, part, 150, k) for k, part in enumerate(("train", "test"))}
    told = script.fit_refreshed(parts)
    for part, data in parts.items():
        assert len(told[part]) == ((data.trace.output_tokens - 1) // 32).sum()
        assert (told[part] >= data.generated + 1).all()
        assert (told[part] <= 320 + 1e-9).all()
        wrong = np.log(told[part] - data.generated) - data.log_remaining
        assert np.sqrt((wrong**2).mean()) < 0.5
    assert "| 64 |" in capsys.readouterr().out
    other = {"train": parts["train"], "test": refreshes(script, "test", 20, 5)}
    np.testing.assert_array_equal(script.fit_refreshed(other)["train"], told["train"])
