"""The campaign for a GPU, tried on the CPU: its steps run once, and become pages."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "laps_env" / "data" / "calibrations"
DATE = "2026-12-01T10:00:00+00:00"

PAGE = "".join(
    f"<!-- {name}:begin -->\nas before\n<!-- {name}:end -->\n"
    for name in ("steps", "tests", "dry-run")
)


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def tiny(out: Path, *steps: str) -> list[str]:
    return ["--out", str(out), "--tiny", *(("--steps", *steps) if steps else ())]


def made_page(folder: Path, data: Path) -> str:
    import gpu_pages

    page = folder / "gpu.md"
    page.write_text(PAGE, encoding="utf-8")
    results = str(folder / "results.json")
    gpu_pages.main([results, "--page", str(page), "--data", str(data)])
    return page.read_text(encoding="utf-8")


def on_a_gpu(folder: Path, **errors: str) -> None:
    """Results of an H100: steps by name with their errors, empty where there is none."""
    from gpu_results import Campaign, Outcome, write

    steps = {name: Outcome(not error, 12.0, DATE, error) for name, error in errors.items()}
    device: dict[str, str | int] = {"type": "cuda", "name": "NVIDIA H100 80GB HBM3"}
    write(folder / "results.json", Campaign(False, device, {"torch": "2.11"}, steps))


def test_good_steps_are_not_run_again_and_a_dry_run_fills_its_own_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu
    from gpu_results import read, write

    results = tmp_path / "results.json"
    assert gpu.main(tiny(tmp_path, "probe", "lossless")) == 0
    known = read(results)
    assert known.tiny
    assert known.device["type"] == "cpu"
    assert [name for name, outcome in known.steps.items() if outcome.ok] == ["probe", "lossless"]
    found = json.loads((tmp_path / "lossless.json").read_text(encoding="utf-8"))["found"]
    assert found["same"] == found["texts"] == 8
    assert found["accepted"] > 0
    assert gpu.main(tiny(tmp_path, "probe", "lossless")) == 0
    assert read(results) == known
    assert "0 of 2 steps to run" in capsys.readouterr().out

    page = made_page(tmp_path, tmp_path)
    assert page.count("as before") == 2  # the tables of a GPU
    assert "| `lossless` |" in page

    write(results, replace(known, tiny=False))
    with pytest.raises(SystemExit, match="expected results of this device, these versions"):
        gpu.main(tiny(tmp_path, "probe"))


def test_a_step_that_fails_or_runs_over_says_so_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu
    from gpu_results import read
    from gpu_steps import Step

    child = tmp_path / "child"
    touches = f"import pathlib, time; time.sleep(4); pathlib.Path({str(child)!r}).touch()"
    sleeps = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {touches!r}])"
    steps = {
        "fails": Step("", ("-c", "raise SystemExit('no such kernel')"), 1, 30),
        "hangs": Step("", ("-c", sleeps), 1, 2),
        "long": Step("", ("-c", ""), 1000, 1000),
        "works": Step("", ("-c", ""), 1, 30),
    }
    monkeypatch.setattr(gpu, "campaign", lambda out: steps)
    monkeypatch.setattr(gpu, "begin", lambda options: gpu.Campaign(True, {}, {}))
    monkeypatch.setattr(gpu, "save_model", lambda folder: None)
    monkeypatch.setattr(gpu, "dry", lambda step, model: step)
    assert gpu.main([*tiny(tmp_path), "--minutes", "5"]) == 1
    outcomes = read(tmp_path / "results.json").steps
    assert outcomes["fails"].error == "exit status 1: no such kernel"
    assert outcomes["hangs"].error == "stopped at its limit of 2 s"
    assert outcomes["long"].error.startswith("not started: ")
    assert outcomes["works"].ok
    time.sleep(4)
    assert not child.exists()  # what a stopped step had started is stopped too


def test_results_of_a_gpu_become_tables_and_calibrations(tmp_path: Path) -> None:
    on_a_gpu(tmp_path, lossless="", attention="exit status 1: a | b", calibrate_7b="", tests="")
    found = {"found": {"same": 7, "texts": 8, "accepted": 30}}
    (tmp_path / "lossless.json").write_text(json.dumps(found), encoding="utf-8")
    calibration = json.loads((SHIPPED / "llama-2-7b-h200.json").read_text(encoding="utf-8"))
    calibration["errors"]["round"] = {"mean": 0.021, "p90": 0.05, "samples": 9}
    calibration |= {"captures": 0, "padded_work": {"errors": {"round": {"mean": 0.013}}}}
    (tmp_path / "calibrate_7b.json").write_text(json.dumps(calibration), encoding="utf-8")
    (tmp_path / "tests.xml").write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.test_warm_up" name="test_no_round_captures_on_a_gpu[a]"/>'
        '<testcase classname="tests.test_warm_up" name="test_no_round_captures_on_a_gpu[b]">'
        "<failure/></testcase>"
        '<testcase classname="tests.test_graphs" name="test_captured_passes_equal_those_in_place"/>'
        "</testsuite></testsuites>",
        encoding="utf-8",
    )
    data = tmp_path / "data"
    data.mkdir()
    page = made_page(tmp_path, data)
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if "|" in line}
    assert (
        "| done in 12 s, 2026-12-01 | 7 of 8 texts the same, 30 accepted |" in lines["`lossless`"]
    )
    assert r"exit status 1: a \| b" in lines["`attention`"]
    assert "mean 2.1%, p90 5.0%; with padded work counted 1.3%" in lines["`calibrate_7b`"]
    assert "| not run |" in lines["`captures`"]
    assert "| failure |" in lines["`test_warm_up.py::test_no_round_captures_on_a_gpu`"]
    assert "| passed |" in lines["`test_graphs.py::test_captured_passes_equal_those_in_place`"]
    assert page.count("as before") == 1  # the dry run's record
    (shipped,) = data.iterdir()
    assert shipped.name == "llama-2-7b-h100.json"
    assert shipped.read_bytes() == (tmp_path / "calibrate_7b.json").read_bytes()
    assert (tmp_path / "calibration-llama-2-7b-h100.png").read_bytes().startswith(b"\x89PNG")


def test_attention_in_place_is_asked_for_as_torch_takes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By tensors without values, as a GPU would be asked: shapes, types and arguments are right."""
    import gpu_probe
    import plain_kernels

    monkeypatch.setitem(sys.modules, "laps_env.live.engine.kernels", plain_kernels)
    monkeypatch.setattr(plain_kernels, "MOST_QUERIES", 64)

    class FakeGpu(gpu_probe.Bench):
        on_gpu = True

    for shared, batch, tokens in ((32, 1, 1), (8, 3, 8)):
        ways = dict(gpu_probe.attentions(FakeGpu("meta", "", ""), shared, batch, tokens, 1024))
        assert list(ways) == ["gathered", "in place", "in parts"]
        del ways["in parts"]  # it looks at where tokens begin
        assert {way().shape for way in ways.values()} == {(batch, tokens, 32, 128)}


def test_figures_are_those_of_the_files() -> None:
    import gpu_pages as pages

    calls = [
        {
            "seconds": {"gathered": 4e-6, "in place": t, "in parts": 1e-6},
            "difference": {"gathered": 0.0, "in place": 0.002},
        }
        for t in (1e-6, 3e-6)
    ]
    told: dict[str, Any] = {"found": {"calls": calls}}
    assert pages.attention(told) == (
        "in place 0.25 to 0.75 x the time of a gather, in parts 0.25 to 0.25 x the time of a "
        "gather; 0.002 apart"
    )
    one = {"role": "target", "batch": 1, "tokens": 1, "pass_s": 0.006, "floor_s": 0.005}
    passes = [{**one, "first_s": 0.5}, {**one, "batch": 8, "first_s": 0.75}]
    told = {"found": {"passes": passes, "rounds": [{"draft_length": 4, "ratio": 1.5}]}}
    expected = "target 1.20; a round over its floor: 4 drafted 1.50; first pass up to 0.75 s"
    assert pages.captures(told).endswith(expected)
    ratios = [{"peer": "plain", "ratio": ratio} for ratio in (4.0, 6.0, 5.0)]
    told = {"ratios": ratios, "rounds": [{"ratio": 1.5}, {"ratio": 1.25}]}
    assert pages.bench(told) == "6.00 x plain; a round takes 1.25 x its floor"
    exact = [{"steps_apart": 0, "rounds_apart": 1, "metrics_apart": 2, "rounds": 50}] * 2
    errors = [
        {"metric": metric, "error": error}
        for metric, error in (
            ("mean_latency_s", 0.01),
            ("mean_latency_s", -0.03),
            ("p99_latency_s", 0.05),
        )
    ]
    told = {"exact": exact, "errors": errors, "captures": 0}
    expected = "6 differences in 100 rounds; error of mean latency up to 3.0%, of p99 5.0%; "
    assert pages.fidelity(told) == expected + "0 captures"


def test_the_page_lists_all_steps_and_marked_tests(tmp_path: Path) -> None:
    from gpu_steps import campaign, marked_tests

    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert [n for n in campaign(tmp_path) if f"| `{n}` |" not in page] == []
    marked = [f"{test.file}::{test.name}" for test in marked_tests()]
    assert "test_graphs.py::test_captured_passes_equal_those_in_place" in marked
    assert [name for name in marked if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "probes"], "steps: expected some of probe, tests"),
        (["--minutes", "0", "--tiny"], "minutes: expected a number > 0"),
    ],
)
def test_wrong_options_are_refused(
    options: Sequence[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu

    with pytest.raises(SystemExit) as stop:
        gpu.main(["--out", str(tmp_path), *options])
    assert message in f"{stop.value} {capsys.readouterr().err}"


@pytest.mark.slow
def test_all_steps_run_on_a_cpu(tmp_path: Path) -> None:
    import gpu
    from gpu_results import read

    begin = time.monotonic()
    assert gpu.main(tiny(tmp_path)) == 0
    assert time.monotonic() - begin < 360
    assert len(read(tmp_path / "results.json").steps) == 12
    assert "| `demo_fidelity` |" in made_page(tmp_path, tmp_path)
