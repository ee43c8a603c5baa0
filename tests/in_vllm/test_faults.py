"""Whatever comes, the server goes on: nobody is lost, and everybody gets the right tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from in_vllm.tiny import BATCH, DRAFT_LENGTH, LONGEST, Ask, lines_of, number_of

RULE = """
from laps_env.policies import CATEGORY, GENERATED_TOKENS, RuleSpec, rule

@rule
def fragile(row, server, params, memory):
    if row[CATEGORY] == 1 and row[GENERATED_TOKENS] > 2:
        {fault}
    return -row[GENERATED_TOKENS]

spec = RuleSpec("fragile", "a rule that fails for some", fragile)
"""


def test_data_that_cannot_be_used_are_left_out_and_counted(
    server: Any, asks: Any, texts: Any
) -> None:
    """The eighth says what can be used, and the first nothing."""
    told: list[dict[str, Any]] = [
        {},
        {"predicted_tokens": 0},
        {"predicted_tokens": -1},
        {"predicted_tokens": math.nan, "category": "chat"},
        {"predicted_tokens": "x", "category": "prose"},
        {"predicted_tokens": True},
        {"predicted_tokens": 10**18, "category": ["chat"]},
        {"predicted_tokens": 3.5, "category": "code"},
    ]
    server.use(policy="laps_sd", categories=["chat", "code"])
    given = [Ask(a.tokens, t, a.prompt_tokens) for a, t in zip(asks, told, strict=True)]
    seen: list[list[tuple[float, float]]] = []

    def look(step: int) -> tuple[int, ...]:
        from laps_env.policies import CATEGORY, PREDICTED_TOKENS

        if step == 1:
            queue = server.scheduler.table.observation["queue"][: len(asks)]
            seen.append(queue[:, [PREDICTED_TOKENS, CATEGORY]].tolist())
        return ()

    assert server.play(given, look).texts == texts
    assert server.counts["ignored_data"] == 6
    limits = [[a.tokens, 0] for a in asks[:7]]
    assert seen == [[*limits, [3.5, 1]]]


def test_without_a_prediction_the_lengths_of_the_category_stand_in(server: Any) -> None:
    """20 requests of 4 tokens, then one more that may have 50, and one that may have 2."""
    from laps_env.policies import PREDICTED_TOKENS

    server.use(policy="sjf", categories=["chat", "code"])
    server.play([Ask(4, {"category": "chat"})] * 20)
    expected: list[float] = []

    def look(step: int) -> tuple[int, ...]:
        expected.extend(server.scheduler.table.observation["queue"][:3, PREDICTED_TOKENS])
        return (0, 1, 2)

    told = {"category": "chat"}
    server.play([Ask(50, told), Ask(2, told), Ask(50, {"category": "code"})], look)
    assert expected == [4, 2, 50]


def test_requests_are_aborted_in_every_state(
    server: Any, asks: Any, texts: Any, tmp_path: Path
) -> None:
    """Two run, two are held, the others were evicted or wait; one of each goes."""
    log = tmp_path / "steps.jsonl"
    aborted: dict[str, int] = {}

    def one_of_each(step: int) -> list[int]:
        scheduler = server.scheduler
        running = {r.request_id: number_of(r) for r in scheduler.running}
        states = {
            "running": [running[name] for name in server.batch if name in running],
            "held": [n for name, n in running.items() if name not in server.batch],
            "evicted": [number_of(r) for r in scheduler.waiting if r.num_preemptions],
            "waiting": [number_of(r) for r in scheduler.waiting if not r.num_preemptions],
        }
        if step < 3:
            return []
        new = {s: found[-1] for s, found in states.items() if found and s not in aborted}
        aborted.update(new)
        return list(new.values())

    with server.under(server.new_scheduler(scheduler_config={"max_num_seqs": BATCH + 2})):
        server.use(policy="las", parameters={"quantum_s": 0.05}, record=str(log))
        played = server.play(asks + asks, one_of_each)
        assert server.scheduler.table.requests == len(server.scheduler.requests) == 0
    assert set(aborted) == {"running", "held", "evicted", "waiting"}
    others = [k for k in range(len(played.texts)) if k not in aborted.values()]
    assert sorted(played.finished) == others
    first = [k for k in others if k < len(asks)]
    assert [played.texts[k] for k in first] == [texts[k] for k in first]
    reasons = [line["reason"] for line in lines_of(log, "request")]
    assert reasons.count("abort") == 4
    assert reasons.count("length") == len(others)


def test_a_cache_that_is_too_small_for_all(server: Any, asks: Any, texts: Any) -> None:
    """It holds one request of the greatest length, which comes with the others."""
    from vllm.exceptions import VLLMValidationError

    whole = Ask(LONGEST - 12 - DRAFT_LENGTH, {"predicted_tokens": 9})
    with server.under(server.new_scheduler(blocks=1 + LONGEST // 32)):
        for policy in ("las", "sjf"):
            server.use(policy=policy)
            played = server.play([*asks, whole])
            assert played.texts[:-1] == texts
            assert len(played.texts[-1]) == whole.tokens
            assert server.counts["evicted"] > 0
            with pytest.raises(VLLMValidationError, match="maximum context length"):
                server.add(9, Ask(1, prompt_tokens=LONGEST + 1))
            assert server.scheduler.table.requests == 0


@pytest.mark.parametrize("fault", ["raise ValueError('mine')", "return np.nan"])
def test_a_rule_that_fails_for_some_requests(
    server: Any, asks: Any, texts: Any, tmp_path: Path, fault: str
) -> None:
    file = tmp_path / "fragile.py"
    file.write_text("import numpy as np\n" + RULE.format(fault=fault))
    server.use(policy=f"{file}:spec", categories=["chat", "code"])
    played = server.play(asks)
    assert played.texts == texts
    assert max(played.batches) == BATCH
    assert 0 < server.counts["failures"] < server.counts["steps"]


def test_an_exception_of_our_own(
    server: Any, asks: Any, texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third step fails, and vLLM schedules it as it would without us."""
    server.use(policy="las")
    choose, calls = server.scheduler._choose, iter(range(10**6))

    def fragile() -> Any:
        if next(calls) % 3 == 2:
            raise RuntimeError("a bug")
        return choose()

    monkeypatch.setattr(server.scheduler, "_choose", fragile)
    assert server.play(asks).texts == texts
    assert server.counts["failures"] == server.counts["steps"] // 3 > 10


@pytest.mark.parametrize("patience_s", [None, 0.5])
def test_a_long_request_in_a_stream_of_short_ones(server: Any, patience_s: float | None) -> None:
    """Two of 8 tokens come every fourth step, and go before it, but for its patience."""
    short = [Ask(8, {"predicted_tokens": 8}, at_step=4 * (k // 2)) for k in range(40)]
    server.use(policy="sjf", patience_s=patience_s)
    played = server.play([*short, Ask(12, {"predicted_tokens": 99})])
    assert len(played.finished) == 41
    assert (played.finished[-1] == 40) == (patience_s is None)
