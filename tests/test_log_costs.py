"""Costs from a step log: known constants are found again, and what a log does not tell is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from import_files import STEPS_HEADER, step, write_lines

pytest.importorskip("scipy")

from laps_env.cli import main
from laps_env.live.measure.log_costs import fit_log, work_of
from laps_env.sim.calibration_file import read_calibration
from laps_env.sim.costs import CostModel
from laps_env.traces.step_log import EngineStep, StepShare

COST = CostModel(
    overhead_ns=0.0,
    target_pass_ns=40e6,
    target_token_ns=1e6,
    target_kv_token_ns=1e4,
    draft_step_ns=2e6,
    draft_token_ns=5e4,
    prefill_request_ns=9e6,
    swap_token_ns=0.0,
)


def steps_of(count: int, drafts: tuple[int, ...] = (0, 1, 3), prompts: bool = True):
    """Steps that take what `COST` says: up to 3 that decode, and in every fourth a prompt."""
    rng = np.random.default_rng(0)
    steps = []
    for k in range(count):
        shares = []
        for _ in range(rng.integers(1, 4)):
            n = int(rng.choice(drafts))
            shares.append(StepShare("d", int(rng.integers(20, 500)), 1 + n, n, 1))
        if prompts and k % 4 == 0:
            shares.append(StepShare("p", 0, int(rng.integers(10, 90)), 0, 1))
        prompt = shares[-1].scheduled if shares[-1].id == "p" else 0
        drafted = [share.drafted for share in shares]
        ns = COST.target_pass_ns + COST.target_token_ns * sum(s.scheduled for s in shares)
        ns += COST.target_kv_token_ns * (sum(s.cached for s in shares) + prompt)
        ns += COST.draft_step_ns * max(drafted) + COST.draft_token_ns * sum(drafted)
        ns += COST.prefill_request_ns * (prompt > 0)
        steps.append(EngineStep(float(k), ns * 1e-9, shares))
    return steps


def scaled(cost: CostModel, factor: float) -> list[float]:
    return [getattr(cost, name) * factor for name in vars(COST) if name.endswith("_ns")]


def test_work_is_counted_as_the_replay_counts_it():
    """A decoding request, a first part of a prompt of 9, and a prompt computed to its end."""
    shares = [
        StepShare("a", 100, 4, 3, 2),
        StepShare("b", 0, 5, 0, 0),
        StepShare("c", 7, 2, 0, 1),
    ]
    assert work_of(EngineStep(0.0, 1.0, shares))._asdict() == {
        "verify": 4,
        "prefill": 7,
        "kv": 107 + 7,
        "steps": 3,
        "drafted": 3,
        "prefills": 2,
        "draft_kv": 0,
        "swaps": 0,
        "swapped": 0,
    }


def test_known_constants_are_found_again():
    fit = fit_log(steps_of(200))
    assert scaled(fit.cost, 1.0) == pytest.approx(scaled(COST, 1.0), rel=1e-6)
    assert fit.error["samples"] == 40
    assert max(fit.error["p90"], abs(fit.total_error)) < 1e-6
    assert fit.notes == []


def test_steps_that_take_ten_times_as_long_count_in_the_sum_alone():
    steps = steps_of(1000)
    for k in (100, 300, 500, 700):  # of 800 that are fitted
        steps[k].duration_s *= 10
    fit = fit_log(steps)
    seen = [s.duration_s for k, s in enumerate(steps) if k % 5 != 4]
    right = sum(seen) - 0.9 * sum(steps[k].duration_s for k in (100, 300, 500, 700))
    assert fit.scale == pytest.approx(sum(seen) / right, rel=1e-6)
    assert scaled(fit.cost, 1 / fit.scale) == pytest.approx(scaled(COST, 1.0), rel=1e-6)


def test_what_a_log_does_not_tell_stays_zero_and_is_said():
    fit = fit_log(steps_of(200, drafts=(3,), prompts=False))
    assert fit.cost.draft_step_ns == fit.cost.draft_token_ns == fit.cost.prefill_request_ns == 0
    assert fit.cost.target_pass_ns == pytest.approx(COST.target_pass_ns + 3 * COST.draft_step_ns)
    token = COST.target_token_ns + 3 / 4 * COST.draft_token_ns
    assert fit.cost.target_token_ns == pytest.approx(token)
    assert "every step without a prompt drafted 3 tokens" in fit.notes[0]
    assert "no step computed a prompt" in fit.notes[1]


def test_a_log_of_few_steps_or_without_decoding_is_refused():
    with pytest.raises(ValueError, match="expected at least 50 steps with requests, got 49"):
        fit_log([*steps_of(49), EngineStep(1.0, 0.1, [])])
    prompts = [replace_shares(s) for s in steps_of(60)]
    with pytest.raises(ValueError, match="expected steps that compute no prompt, got none"):
        fit_log(prompts)


def replace_shares(s: EngineStep) -> EngineStep:
    return EngineStep(s.at_s, s.duration_s, [StepShare("p", 0, 9, 0, 1)])


def test_the_command_writes_a_calibration(tmp_path, capsys):
    lines = [
        step(s.at_s, s.duration_s, *((p.id, p.cached, p.scheduled, p.drafted, p.committed)
                                     for p in s.requests))
        for s in steps_of(100)
    ]  # fmt: skip
    log = write_lines(tmp_path / "steps.jsonl", STEPS_HEADER, *lines)
    out = tmp_path / "calibration.json"
    main(["calibrate", "--from-log", str(log), "--out", str(out)])
    cost = read_calibration(out)
    assert scaled(cost, 1.0) == pytest.approx(scaled(COST, 1.0), rel=1e-6)
    assert cost.source.startswith("measured on a processor, ")
    assert cost.source.endswith(": big with ngram, float32")
    assert "held-out steps: error mean 0.0%, p90 0.0%; their total +0.0%" in capsys.readouterr().out
    both = json.loads(out.read_text()) | {"grid": []}
    del both["log"]
    out.write_text(json.dumps(both))
    with pytest.raises(ValueError, match="grid: expected a list of length >= 1"):
        read_calibration(out)
    out.write_text(json.dumps({k: v for k, v in both.items() if k != "grid"}))
    with pytest.raises(ValueError, match="grid: expected it or log, got neither"):
        read_calibration(out)
    for option in (["--plot", "x.png"], ["--target", "big"]):
        with pytest.raises(SystemExit):
            main(["calibrate", "--from-log", str(log), *option])
        assert f"{option[0][2:]}: expected none beside a log" in capsys.readouterr().err
