"""What a recording is like: numbers worked out by hand, and a drift that was put in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from laps_env.report.traffic_text import traffic_text
from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.schema import TraceError
from laps_env.traces.summary import drift_of, summarize_trace


def trace(tokens: list[int], accepted: list[int], **arrays: Any) -> AcceptanceTrace:
    """Requests of these lengths, each position of which accepts so much; categories in turn."""
    return AcceptanceTrace(
        accepted_length=np.repeat(np.array(accepted, np.uint8), tokens),
        offset=np.concatenate([[0], np.cumsum(tokens)]),
        output_tokens=np.array(tokens),
        prompt_tokens=np.full(len(tokens), 10),
        category=np.arange(len(tokens)) % 2,
        categories=("chat", "code"),
        info=TraceInfo(drafter="eagle", target_model="by hand"),
        **arrays,
    )


def test_numbers_by_category() -> None:
    predicted = np.array([4.0, 10.0, 32.0, 10.0])
    chat, code = summarize_trace(trace([4, 10, 16, 10], [2, 0, 0, 1], predicted_tokens=predicted))
    assert (chat.name, chat.requests, chat.output_tokens) == ("chat", 2, 10)
    assert chat.acceptance == 4 / 20
    assert code.acceptance == 10 / 20
    assert code.output_log_sd == 0
    assert chat.predictor_bias == pytest.approx(np.log(2) / 2)
    assert chat.predictor_error == pytest.approx(np.log(2) / 2)
    assert (code.predictor_bias, code.predictor_error) == (0, 0)


def test_only_what_changed_is_named() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.integers(20, 60, 200), 2 * rng.integers(20, 60, 200)
    lengths = np.concatenate([before, after])
    found = {drift.name: drift for drift in drift_of(trace(lengths.tolist(), [1, 0] * 200))}
    assert found["output tokens"].told
    assert 1.8 < found["output tokens"].ratio < 2.2
    assert not found["accepted first drafts"].told
    assert not found["share of chat"].told
    text = traffic_text(trace(lengths.tolist(), [1, 0] * 200))
    assert "changed: output tokens: laws" in text
    same = trace(np.concatenate([before, before]).tolist(), [1, 0] * 200)
    assert "no change is told from chance" in traffic_text(same)


def test_another_mix_is_not_taken_for_longer_answers() -> None:
    lengths = np.tile([10, 100], 100)
    told = trace(lengths.tolist(), [1] * 200)
    mixed = told.select(np.argsort(told.category, kind="stable"))  # chat first, then code
    found = {drift.name: drift for drift in drift_of(mixed)}
    assert found["output tokens"].ratio == 1
    assert found["share of chat"].told
    assert found["share of chat"].ratio < 0.1  # none is left
    assert found["share of code"].ratio > 10
    assert "changed: share of chat, share of code: laws" in traffic_text(mixed)
    with pytest.raises(TraceError, match="requests: expected at least 4, got 3"):
        drift_of(told.select(np.arange(3)))
