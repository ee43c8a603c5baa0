"""Tuning: each objective gets its own winner, all rules the same number of trials."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laps_env.cli import main
from laps_env.evaluation.tuning import Scores, Settings, TuningBudget, tune
from laps_env.policies import Parameter, RuleSpec
from laps_env.policies.fcfs import fcfs

SPEC = RuleSpec(
    "two",
    "two numbers",
    fcfs,
    (
        Parameter("a", 0.0, 0.0, 10.0, "linear"),
        Parameter("n", 1.0, 1.0, 100.0, "logarithmic", log=True, integer=True),
    ),
)
BUDGET = TuningBudget(sampled=16, refined=16, refine_by=8, finalists=2)


def scores(settings: Settings) -> Scores:
    """Mean is best at a = 2, n = 10, and p99 at a = 8, n = 10."""
    off = abs(settings["n"] - 10) / 100
    mean, tail = ((settings["a"] - best) ** 2 + off for best in (2, 8))
    return {"mean_latency": mean, "p99_latency": tail}


def test_each_objective_gets_its_own_winner_within_the_budget() -> None:
    tried: list[Settings] = []
    met: list[Settings] = []

    def score(settings: Settings) -> Scores:
        tried.append(settings)
        return scores(settings)

    def final(settings: Settings) -> Scores:
        met.append(settings)
        return scores(settings)

    found = tune(SPEC, score, final, BUDGET)
    assert found["mean_latency"]["settings"]["a"] == pytest.approx(2, abs=0.5)
    assert found["p99_latency"]["settings"]["a"] == pytest.approx(8, abs=0.5)
    assert found["mean_latency"]["default_score"] == scores({"a": 0, "n": 1})["mean_latency"]
    assert len(tried) == BUDGET.sampled + 2 * BUDGET.refined
    assert met[0] == {"a": 0.0, "n": 1.0}  # the default is in the final
    assert len(met) <= 1 + 2 * BUDGET.finalists
    assert all(settings["n"] == int(settings["n"]) for settings in tried)


def test_a_default_that_nothing_beats_stays() -> None:
    found = tune(SPEC, scores, lambda s: {"mean_latency": s["a"] + s["n"]}, BUDGET)
    assert found["mean_latency"]["settings"] == {"a": 0.0, "n": 1.0}


OWN = """
from laps_env.policies import WAITING_S, Parameter, RuleSpec, rule

@rule
def aged(row, server, params, memory):
    return -params[0] * row[WAITING_S]

SPEC = RuleSpec("aged", "aged", aged, (Parameter("w", 1.0, 0.5, 2.0, "weight"),))
NONE = RuleSpec("none", "none", aged)
"""


def test_an_own_rule_is_tuned_into_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    asked = ["--rules", "own.py:SPEC", "--scenarios", "limits-batch8-8b", "--trials", "4"]
    main(["tune", *asked, "--out", "tuned.json"])
    said = capsys.readouterr().out
    assert "limits-batch8-8b, slo_attainment: own.py:SPEC:w=" in said
    found = json.loads(Path("tuned.json").read_text())
    assert set(found["settings"]) == {"mean_latency", "p99_latency", "slo_attainment"}
    assert list(found["settings"]["p99_latency"]["own.py:SPEC"]) == ["limits-batch8-8b"]
    assert not Path("runs/tune.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--rules own.py:SPEC", "out: expected a file of your own for your own rules"),
        ("--rules own.py:NONE --out t.json", "expected a rule with parameters, got one without"),
        ("--rules fcfs --out t.json", "rules: expected one of bayes_running"),
        ("--trials 3", "trials: expected an integer >= 4, got 3"),
    ],
)
def test_what_cannot_be_tuned_is_said(
    options: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    with pytest.raises(SystemExit):
        main(["tune", *options.split()])
    assert message in capsys.readouterr().err
    assert not Path("t.json").exists()
