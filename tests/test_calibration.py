"""Calibration: known constants are found again; a calibration file is checked in every field."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laps_env.sim.calibration_file import CONSTANTS, read_calibration, write_calibration
from laps_env.sim.costs import CostModel, Work, duration_ns
from laps_env.sim.server_model import ServerModel

COST = CostModel(
    overhead_ns=120_000.0,
    target_pass_ns=5_886_000.0,
    target_token_ns=21_000.0,
    target_kv_token_ns=39.3,
    draft_step_ns=533_750.0,
    draft_token_ns=1_250.0,
    draft_kv_token_ns=400.0,
    prefill_request_ns=740_000.0,
    swap_request_ns=450_000.0,
    swap_token_ns=5_243.0,
    source="by hand",
)
DONE = {"verify": 3, "kv": 64, "steps": 2, "drafted": 2, "draft_kv": 128}
WORK = {"prefill": 0, "prefills": 0, "swaps": 0, "swapped": 0, **DONE}
ROW = {
    "kind": "decode",
    "batch": 1,
    "draft_length": 2,
    "context": 64,
    "work": WORK,
    "caches_ns": 0.0,
    "draft_ns": 2e6,
    "verify_ns": 6e6,
    "round_ns": 8.1e6,
    "held_out": False,
}


def document() -> dict[str, Any]:
    return {
        "created": "2026-01-02T03:04:05+00:00",
        "device": {"type": "cpu", "name": "a processor", "cores": 2, "threads": 1},
        "software": {"python": "3", "torch": "2", "transformers": "5", "laps_env": "0"},
        "models": {"target": "large", "draft": "small"},
        "dtype": "float32",
        "cost": COST,
        "errors": {"round": {"mean": 0.05, "p90": 0.1, "samples": 3}},
        "grid": [ROW],
    }


def test_a_calibration_file_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(path, document())
    cost = read_calibration(path)
    assert replace(cost, source=COST.source) == COST
    assert "a processor" in cost.source
    assert "large with small" in cost.source


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", "other", "format: expected 'laps-env calibration', got 'other'"),
        ("version", 2, "version: expected 1, got 2"),
        ("version", True, "version: expected 1, got True"),
        ("cost.draft_step_ns", None, "cost.draft_step_ns: expected a value, got none"),
        ("cost.draft_kv_token_ns", None, "cost.draft_kv_token_ns: expected a value, got none"),
        ("cost.draft_step_ns", float("nan"), "expected JSON, got"),
        (
            "cost.swap_token_ns",
            -1,
            "cost.swap_token_ns: expected a number >= 0.0, got -1",
        ),
        ("cost", [1], "cost: expected an object, got [1]"),
        ("device.name", "", "device.name: expected a text of length >= 1, got ''"),
        ("device.threads", "2", "device.threads: expected a number, got '2'"),
        ("errors", {}, "errors: expected one entry per term"),
        ("errors.round", {"mean": 1}, "errors[...].p90: expected a value, got none"),
        ("grid", [], "grid: expected a list of length >= 1, got []"),
        ("grid", [ROW, {}], "grid[1].kind: expected a value, got none"),
        ("grid", [{**ROW, "held_out": 0}], "grid[0].held_out: expected true or false, got 0"),
        (
            "grid",
            [{**ROW, "work": {**WORK, "kv": "x"}}],
            "grid[0].work.kv: expected a number, got 'x'",
        ),
    ],
)
def test_a_bad_calibration_file_is_refused(
    tmp_path: Path, field: str, value: Any, message: str
) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(path, document())
    changed = json.loads(path.read_text())
    *parents, name = field.split(".")
    inside = changed
    for parent in parents:
        inside = inside[parent]
    if value is None:
        del inside[name]
    else:
        inside[name] = value
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="expected") as error:
        read_calibration(path)
    assert str(error.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "3", "\x00"])
def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected") as error:
        read_calibration(path)
    assert str(path) in str(error.value)


def test_the_loader_needs_no_torch() -> None:
    code = "import sys, laps_env.sim.calibration_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("scipy")

from tiny_models import tiny_model  # noqa: E402

from laps_env.cli import main  # noqa: E402
from laps_env.cli.calibrate import GPU_BATCHES  # noqa: E402
from laps_env.live.engine import loading  # noqa: E402
from laps_env.live.engine.drafters import DraftModel  # noqa: E402
from laps_env.live.engine.engine import Engine  # noqa: E402
from laps_env.live.engine.kv_slots import SlotModel  # noqa: E402
from laps_env.live.engine.loading import Pair  # noqa: E402
from laps_env.live.engine.slot_pass import SlotPass  # noqa: E402
from laps_env.live.measure.calibration import (  # noqa: E402
    Grid,
    Kind,
    Sample,
    held_out_cells,
    measure,
    padded_work,
)
from laps_env.live.measure.fitting import (  # noqa: E402
    TERMS,
    compare,
    errors,
    fit,
    with_padding,
)

GRID = Grid(batches=(1, 3), draft_lengths=(0, 2, 3), contexts=(4, 9), repeats=2)


def synthetic(rng: np.random.Generator | None = None) -> list[Sample]:
    """Samples as the cost model has them, with noise of a tenth where draws are given."""
    noise = (lambda: float(rng.uniform(0.9, 1.1))) if rng else lambda: 1.0
    samples = []
    for k, (batch, n, context) in enumerate(product((1, 2, 4, 8), (0, 1, 4), (64, 256, 768))):
        kv = batch * context
        drafting = {"steps": n, "drafted": batch * n, "draft_kv": n * kv}
        verifying = {"verify": batch * (n + 1), "kv": kv}
        draft = noise() * (
            COST.draft_step_ns * n
            + COST.draft_token_ns * batch * n
            + COST.draft_kv_token_ns * n * kv
        )
        verify = noise() * (
            COST.target_pass_ns
            + COST.target_token_ns * batch * (n + 1)
            + COST.target_kv_token_ns * kv
        )
        swapping = COST.swap_request_ns * batch + COST.swap_token_ns * kv
        computing = COST.target_token_ns * kv + COST.prefill_request_ns * batch
        caches_of: dict[Kind, tuple[float, dict[str, int]]] = {
            "decode": (0.0, {}),
            "prefill": (computing, {"prefill": kv, "prefills": batch}),
            "restore": (swapping, {"swaps": batch, "swapped": kv}),
        }
        for kind, (caches, work) in caches_of.items():
            done = Work(**dict.fromkeys(Work._fields, 0) | drafting | verifying | work)
            parts = (caches * noise(), draft, verify)
            whole = sum(parts) + COST.overhead_ns
            samples.append(Sample(kind, batch, n, context, done, done, *parts, whole, k % 4 == 0))
        moved = Work(**dict.fromkeys(Work._fields, 0) | {"swaps": batch, "swapped": kv})
        ns = swapping * noise()
        samples.append(Sample("offload", batch, 0, context, moved, moved, ns, 0, 0, ns, k % 4 == 0))
    return samples


@pytest.mark.parametrize("one_token_rate", [True, False])
def test_the_fit_finds_known_constants(one_token_rate: bool) -> None:
    samples = synthetic()
    rates = fit(samples, one_token_rate=one_token_rate)
    found, known = asdict(rates.cost_model()), asdict(COST)
    assert [found[name] for name in CONSTANTS] == pytest.approx(
        [known[name] for name in CONSTANTS], rel=1e-9
    )
    assert rates.prefill == pytest.approx(COST.target_token_ns, rel=1e-9)
    left = errors(samples, rates)
    assert set(left) == set(TERMS)
    assert max(e["mean"] for e in left.values()) < 1e-9


def test_whole_rounds_are_fitted_with_the_kernel_s_formula() -> None:
    samples = synthetic()
    rates = fit(samples)
    constants = ServerModel(cost=rates.cost_model()).constants()
    _, fitted = compare(samples, rates)["round"]
    rounds = [s for s in samples if s.kind != "offload"]
    assert [duration_ns(constants, s.work) for s in rounds] == np.rint(fitted).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_no_constant_is_negative(seed: int) -> None:
    """Half of the constants are really zero, so that noise pulls them to either side."""
    rng = np.random.default_rng(seed)
    samples = [
        replace(s, draft_ns=5e5 * s.work.steps * rng.uniform(0.8, 1.2)) for s in synthetic(rng)
    ]
    samples = [
        replace(s, caches_ns=s.work.prefill * 2e4 * rng.uniform(0.8, 1.2))
        if s.kind == "prefill"
        else s
        for s in samples
    ]
    assert min(fit(samples)) >= 0


def test_what_is_held_out_does_not_change_the_fit() -> None:
    samples = synthetic()
    other = [replace(s, verify_ns=9 * s.verify_ns) if s.held_out else s for s in samples]
    assert fit(other) == fit(samples)
    assert errors(other, fit(other))["verify"]["mean"] == pytest.approx(8 / 9)


def test_padded_work_explains_times_that_the_work_does_not() -> None:
    """Two in five rounds take as long as if they prefilled half as many tokens again."""
    samples = [
        replace(s, padded=s.work, work=s.work._replace(prefill=2 * s.work.prefill // 3))
        if k % 5 < 2
        else s
        for k, s in enumerate(synthetic())
    ]
    full = with_padding(samples)
    assert errors(full, fit(full))["prefill"]["mean"] < 1e-9
    assert errors(samples, fit(samples))["prefill"]["mean"] > 0.05


def test_padded_work_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three requests fill up four; 4 + 3 tokens, and slots of 40 and one column, are seen whole.

    Attention in place reads what is filled.
    """
    target = tiny_model()
    drafter = DraftModel(tiny_model(seed=1), 4, 40)
    engine = Engine(target, drafter, slots=4, length=40)
    contexts = [4, 6, 9]
    done = Work(verify=9, prefill=19, kv=19, steps=2, drafted=6, draft_kv=38, prefills=3, swaps=0,
                swapped=0)  # fmt: skip
    assert padded_work(engine, contexts, done) == done  # in place nothing is padded
    engine.target = SlotModel(target, 4, 40, graphs=True)
    filled_up = done._replace(
        verify=4 * 4,  # 2 drafted tokens and one more
        prefill=4 + 8 + 16,
        drafted=2 * 4,
    )
    expected = filled_up._replace(kv=4 * 41, draft_kv=2 * 4 * 41)
    assert padded_work(engine, contexts, done) == expected
    monkeypatch.setattr(SlotPass, "in_place", True)
    assert padded_work(engine, contexts, done) == filled_up


def test_some_padded_batches_are_held_out_and_some_are_fitted_on() -> None:
    grid = replace(GRID, batches=GPU_BATCHES, contexts=(64, 256, 768))
    chosen = held_out_cells(grid, np.random.default_rng(0))
    odd = [batch for batch, _ in chosen if batch in (3, 6, 12, 24)]
    assert (len(odd), len(chosen) - len(odd)) == (3, 5)  # of 12 and of 18 cells


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batches", (1,), "batches: expected 2 or more different numbers"),
        ("batches", (0, 1), "batches: expected an integer >= 1, got 0"),
        ("draft_lengths", (2, 2), "draft_lengths: expected 1 or more different numbers"),
        ("draft_lengths", (-1, 2), "draft_lengths: expected an integer >= 0, got -1"),
        ("contexts", (1, 64), "contexts: expected an integer >= 4, got 1"),
        ("repeats", 0, "repeats: expected an integer >= 1, got 0"),
    ],
)
def test_a_grid_that_tells_too_little_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(GRID, **{field: value})


pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_cell_of_the_grid_is_measured() -> None:
    target, draft = tiny_model(seed=0), tiny_model(seed=1)
    engines = []

    def make_engine(slots: int, length: int) -> Engine:
        drafter = DraftModel(draft, slots, length)
        engines.append(Engine(target, drafter, slots=slots, length=length))
        return engines[-1]

    told: list[str] = []
    samples = measure(make_engine, GRID, np.random.default_rng(0), told.append)
    assert len(told) == 1 + GRID.repeats
    cells = set(product(GRID.batches, GRID.contexts))
    rounds = {(s.batch, s.draft_length, s.context) for s in samples if s.kind == "decode"}
    assert rounds == set(product(GRID.batches, GRID.draft_lengths, GRID.contexts))
    for kind in ("prefill", "offload", "restore"):
        assert {(s.batch, s.context) for s in samples if s.kind == kind} == cells
    assert len(samples) == len(rounds) + 3 * len(cells)
    held_out = {(s.batch, s.context) for s in samples if s.held_out}
    assert sorted(batch for batch, _ in held_out) == [1, 3]  # one of the padded, one of the others
    assert sum(s.captures for s in samples) == 0
    for s in samples:
        check_work(s)
    assert sorted(engines[0]._free) == list(range(max(GRID.batches)))  # nothing is left behind
    assert min(fit(samples)) >= 0


def check_work(s: Sample) -> None:
    """Counts follow from the cell; texts grow a little from round to round."""
    if s.kind == "offload":
        assert s.work[:-2] == (0,) * 7
        assert (s.work.swaps, s.work.swapped > s.batch * s.context) == (s.batch, True)
        assert s.draft_ns == s.verify_ns == 0
        return
    assert s.work.steps == s.draft_length
    assert s.work.drafted == s.batch * s.draft_length
    assert s.work.verify == s.batch * (s.draft_length + 1)
    assert s.work.kv >= s.batch * s.context
    assert s.work.prefill == (s.work.kv if s.kind == "prefill" else 0)
    assert s.work.prefills == (s.batch if s.kind == "prefill" else 0)
    moved = (s.batch, s.work.kv) if s.kind == "restore" else (0, 0)
    assert (s.work.swaps, s.work.swapped) == moved
    assert s.work.draft_kv == s.draft_length * s.work.kv
    assert s.round_ns >= s.caches_ns + s.draft_ns + s.verify_ns > 0


def test_the_command_writes_a_calibration_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = Pair(tiny_model(seed=0), tiny_model(seed=1), None, "large", "small", frozenset({5}))
    monkeypatch.setattr(loading, "load_pair", lambda *args, **options: pair)
    out, plot = tmp_path / "calibration.json", tmp_path / "calibration.png"
    grid = ["--batches", "1,2", "--draft-lengths", "0,2", "--contexts", "4,9", "--repeats", "1"]
    main(["calibrate", *grid, "--out", str(out), "--plot", str(plot)])
    assert "large with small, float32" in read_calibration(out).source
    assert len(json.loads(out.read_text())["grid"]) == 4 * (3 + 2)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "target_pass_ns" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--out", "nowhere/calibration.json"], "expected a file in an existing folder"),
        (["--plot", "calibration.txt"], "expected a file ending in .png"),
        (["--batches", "1,x"], "expected an integer, got 'x'"),
        (["--contexts", "64"], "contexts: expected 2 or more different numbers"),
        (["--threads", "0"], "threads: expected an integer >= 1, got 0"),
    ],
)
def test_the_command_refuses_bad_options_before_it_loads(
    option: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loading, "load_pair", pytest.fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["calibrate", *option])
    assert message in capsys.readouterr().err
