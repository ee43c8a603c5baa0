"""Advice on servers whose best decision follows from how they were made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laps_env.cli import main
from laps_env.evaluation.advice import Advice, Decision, Question, advise, steps_of
from laps_env.report.advice_page import advice_page
from laps_env.sim.costs import CostModel
from laps_env.sim.server_model import ServerModel
from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.workloads.arrivals import Poisson
from laps_env.workloads.limits import Limits
from laps_env.workloads.requests import RecordedRequests
from laps_env.workloads.scenario import Scenario

#: A pass takes 10 ms whatever is in it, a draft step 1 ms.
COST = CostModel(1e6, 9e6, 0, 0, 1e6, 0, 0, 0)


def scenario(accepted: int) -> Scenario:
    """Answers of 6 and of 60 tokens whose drafts are accepted up to a depth, one at a time."""
    tokens = np.tile([6, 60], 20)
    trace = AcceptanceTrace(
        accepted_length=np.full(tokens.sum(), accepted, np.uint8),
        offset=np.concatenate([[0], np.cumsum(tokens)]),
        output_tokens=tokens,
        prompt_tokens=np.full(40, 5),
        category=np.zeros(40, np.int64),
        categories=("chat",),
        info=TraceInfo(drafter="eagle", target_model="by hand"),
    )
    server = ServerModel(COST, batch_size=1, draft_length=1, pool_tokens=10_000)
    requests = RecordedRequests(trace, trace, name="by hand")
    return Scenario("toy", "", server, requests, Poisson()).with_saturation()


def ask(accepted: int, **changes: Any) -> Advice:
    given: dict[str, Any] = {
        "scenario": scenario(accepted),
        "load": 0.8,
        "today": "fcfs",
        "policies": ("fcfs", "sjf"),
        "batch_sizes": (1, 2),
        "draft_lengths": (0, 1, 3),
        "num_requests": 3000,
    }
    return advise(Question(**given | changes))


def test_drafts_that_are_accepted_are_drafted_and_batches_that_cost_nothing_are_filled() -> None:
    told: list[int] = []
    question = Question(
        scenario=scenario(3),
        load=0.8,
        today="fcfs",
        policies=("fcfs", "sjf"),
        batch_sizes=(1, 2),
        draft_lengths=(0, 1, 3),
        num_requests=3000,
    )
    advice = advise(question, told.append)
    assert advice.screened == 12
    assert sum(told) <= steps_of(question)
    assert 0.6 < np.mean(advice.loads) < 1.0
    for name in ("mean_latency_s", "p99_latency_s"):
        best = advice.best[name]
        assert (best.decision.batch_size, best.decision.draft_length) == (2, 3)
        ratio, interval = best.change[name]
        assert interval is not None
        assert interval[1] < 0.6  # two at a time, four tokens a round in 13 ms and not two in 11
        assert {str(part.decision) for part in advice.parts[name]} >= {
            "fcfs, batch 2, draft 1",
            "fcfs, batch 1, draft 3",
        }
        # drafting a tenth dearer is still far from worth less
        assert all(bounds[1] < 0.7 for _, bounds in advice.if_costs_differ[name].values() if bounds)
        assert ratio < interval[1]
        assert advice.today.change[name][0] == 1.0


def test_what_is_refused_is_not_drafted() -> None:
    advice = ask(0, batch_sizes=(1,), policies=("sjf",), today="sjf")
    best = advice.best["mean_latency_s"]
    assert best.decision == Decision("sjf", 1, 0)
    _, interval = best.change["mean_latency_s"]
    assert interval is not None
    assert interval[1] < 10 / 11  # 10 ms a token and not 11, and shorter queues
    assert "**sjf, batch 1, draft 0**: x 0." in advice_page(advice)


def test_limits_are_an_objective_where_there_are_some() -> None:
    limited = replace(scenario(3), limits={"chat": Limits(ttft_s=0.05)})
    advice = ask(3, scenario=limited)
    value, interval = advice.best["slo_attainment"].change["slo_attainment"]
    assert interval is not None
    assert interval[0] > 0.1
    assert value == pytest.approx(
        float(advice.best["slo_attainment"].values["slo_attainment"].mean())
        - float(advice.today.values["slo_attainment"].mean())
    )
    assert "points of today's" in advice_page(advice)


def test_todays_decision_may_be_the_best() -> None:
    advice = ask(1, batch_sizes=(1,), policies=("fcfs",), draft_lengths=(1,))
    assert advice.best["mean_latency_s"].decision == advice.today.decision
    assert not advice.if_costs_differ
    assert "Today's decision is the best" in advice_page(advice)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_sizes": (0,)}, "batch_size: expected an integer >= 1"),
        ({"draft_lengths": (99,)}, "draft_length: expected 0..16"),
        ({"draft_lengths": ()}, "draft_lengths: expected"),
        ({"policies": ("nobody",)}, "nobody"),
        (
            {"policies": ("fcfs+smartspec",)},
            r"policies: expected schedulers alone, got fcfs\+smart",
        ),
        ({"load": "recorded"}, "expected recorded arrivals"),
        ({"load": -1.0}, "load: expected"),
        ({"num_requests": 100}, "num_requests: expected an integer >= 2000"),
        ({"cost_error": 1.0}, "cost_error: expected a number in 0..1"),
    ],
)
def test_questions_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(1, **change)


def test_the_page_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "advice.md"
    words = ["advise", "code-serial-8b", "--policies", "fcfs,sjf", "--batch-sizes", "1"]
    words += ["--draft-lengths", "2,4", "--requests", "2000", "--out", str(page)]
    main(words)
    assert page.read_text() in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(words)
    assert "--overwrite" in capsys.readouterr().err
