"""Costs from a step log: known constants are found again, and what a log does not tell is said."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from import_files import STEPS_HEADER, step, write_lines
from msgspec.structs import replace

pytest.importorskip("scipy")

from laps_env.cli import main
from laps_env.live.measure.log_costs import fit_log, fit_steps
from laps_env.live.measure.logged_steps import read_timed_steps, work_of
from laps_env.sim.calibration_file import read_calibration
from laps_env.sim.costs import CostModel
from laps_env.traces import TraceError
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
    assert fit.errors["round"]["samples"] == 40
    assert fit.errors["prefill"]["samples"] + fit.errors["decode"]["samples"] == 40
    batches, drafts = ["batch 1", "batch 2", "batch 3-4"], ["draft steps 1", "draft steps 3-4"]
    assert list(fit.errors)[3:] == [*batches, *drafts]  # and too few that drafted nothing
    assert max(error["p90"] for error in fit.errors.values()) < 1e-6
    assert abs(fit.total_error) < 1e-6
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
    assert fit.notes == [
        "prefill_request_ns is 0: no pass has prompts",
        "draft_step_ns is 0: every pass without a prompt has the same number of draft steps, 3, so "
        "what they take is in target_pass_ns",
        "draft_token_ns is 0: all but 0.0% of the drafted tokens of passes without a prompt follow "
        "from the tokens of the target, so what they take is in target_token_ns",
    ]
    assert "draft_step_ns" not in fit.intervals


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
    with pytest.raises(ValueError, match="expected one of grid, log and requests, got none"):
        read_calibration(out)
    for option in (["--plot", "x.png"], ["--target", "big"], ["--from-requests", "r.csv"]):
        with pytest.raises(SystemExit):
            main(["calibrate", "--from-log", str(log), *option])
        name = option[0][2:].replace("-", "_")
        assert f"{name}: expected none beside a log" in capsys.readouterr().err


def table(steps: list[EngineStep], *left_out: str) -> list[str]:
    """The steps as lines of a table, with every column but some."""
    rows = []
    for s in steps:
        work = work_of(s)
        rows.append(
            {
                "batch": len(s.requests),
                "tokens": work.verify + work.prefill,
                "context": work.kv,
                "seconds": s.duration_s,
                "drafted": work.drafted,
                "draft_steps": work.steps,
                "prefill_tokens": work.prefill,
                "prefills": work.prefills,
            }
        )
    names = [name for name in rows[0] if name not in left_out]
    return [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]


def test_a_table_of_steps_tells_as_much_as_a_log(tmp_path):
    path = tmp_path / "steps.csv.gz"
    path.write_bytes(gzip.compress("\n".join(table(steps_of(200))).encode()))
    header, steps = read_timed_steps(path)
    assert header is None
    assert steps.work == [work_of(s) for s in steps_of(200)]
    assert scaled(fit_steps(steps).cost, 1.0) == pytest.approx(scaled(COST, 1.0), rel=1e-6)


def test_intervals_hold_the_constants_of_a_noisy_log_and_follow_its_drift():
    """Single steps are off by a tenth, and the machine is slower for some minutes."""
    steps, rng = steps_of(1000), np.random.default_rng(1)
    noisy = [replace(s, duration_s=s.duration_s * rng.uniform(0.9, 1.1)) for s in steps]
    fit = fit_log(noisy)
    for name, (low, high) in fit.intervals.items():
        assert low <= getattr(COST, name) <= high, name
    low, high = fit.intervals["target_pass_ns"]
    slower = [replace(s, duration_s=s.duration_s * 1.5) for s in noisy[300:600]]
    drifted = fit_log([*noisy[:300], *slower, *noisy[600:]]).intervals["target_pass_ns"]
    assert drifted[1] - drifted[0] > 3 * (high - low)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2,4,90,-1", "line 3, seconds: expected seconds in 1e-09 .. 1e+09, got '-1'"),
        ("2,4,90,nan", "line 3, seconds: expected seconds in 1e-09 .. 1e+09, got 'nan'"),
        ("0,4,90,1", "line 3, batch: expected an integer >= 1, got '0'"),
        ("2,4,9.5,1", "line 3, context: expected an integer >= 0, got '9.5'"),
        ("2,,90,1", "line 3, tokens: expected a value, got none"),
        ("2,1,90,1", "line 3, tokens: expected 2 or more for so many requests"),
        ("2,4,90", "line 3, row: expected 4 values, got 3"),
    ],
)
def test_a_bad_line_of_a_table_is_named(tmp_path, line, message):
    path = write_lines(tmp_path / "steps.csv", "batch,tokens,context,seconds", "1,1,5,0.1", line)
    with pytest.raises(TraceError) as error:
        read_timed_steps(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_a_missing_column_is_named(tmp_path):
    path = write_lines(tmp_path / "steps.csv", *table(steps_of(60), "context"))
    with pytest.raises(TraceError, match="line 1, context: expected one column of that name"):
        read_timed_steps(path)


def test_columns_that_go_together_are_named(tmp_path):
    """Two requests in every step, and a context that is 100 for each token."""
    lines = [f"2,{2 + k % 3},{100 * (2 + k % 3)},{0.1 + 0.01 * (k % 3)}" for k in range(60)]
    path = write_lines(tmp_path / "steps.csv", "batch,tokens,context,seconds", *lines)
    fit = fit_steps(read_timed_steps(path)[1])
    assert fit.notes[0] == (
        "target_kv_token_ns is 0: all but 0.0% of the key-value tokens follow from the tokens of "
        "the target, so what they take is in target_token_ns"
    )
    assert fit.cost.target_token_ns == pytest.approx(1e7)
    same = write_lines(tmp_path / "same.csv", "batch,tokens,context,seconds", *lines[::3] * 3)
    fit = fit_steps(read_timed_steps(same)[1])
    assert fit.cost.target_pass_ns == pytest.approx(1e8)
    assert fit.notes[0] == (
        "target_token_ns is 0: every pass has the same number of tokens of the target, 2, so what "
        "they take is in target_pass_ns"
    )
