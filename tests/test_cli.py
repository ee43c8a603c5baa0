"""The command line: what it prints and writes, and what it does with bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from laps_env.__main__ import main

SMALL = ["evaluate", "--scenario", "code-serial-8b", "--policies", "fcfs,laps_sd,oracle_srpt"]
SMALL += ["--loads", "0.7,0.9", "--episodes", "3", "--requests", "40"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_names_scenarios_policies_and_environments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["list"])
    out = capsys.readouterr().out
    for name in (
        "chat-serial-8b",
        "bursty-batch8-8b",
        "laps_sd[_tuned]",
        "laps_env/SpecDecodeReplay-v0",
    ):
        assert name in out


def test_evaluate_writes_the_named_files_and_no_others(
    capsys: pytest.CaptureFixture[str], empty_folder: Path
) -> None:
    main([*SMALL, "--json", "out.json", "--plot", "out.svg"])
    out = capsys.readouterr().out
    assert "code-serial-8b, load 0.9: 3 workloads of 40 requests" in out
    assert out.endswith("results: out.json, picture: out.svg\n")
    assert {path.name for path in empty_folder.iterdir()} == {"out.json", "out.svg"}
    rows = json.loads(Path("out.json").read_text())["rows"]
    assert [(row["load"], row["policy"]) for row in rows] == [
        (load, policy)
        for load in (0.7, 0.9)
        for policy in ("fcfs", "laps_sd", "oracle_srpt", "laps_sd_tuned")
    ]
    needed = "scenario load policy reference episodes mean_latency_s mean_latency_ci95 "
    needed += "ratio_to_reference ratio_ci95 p50_latency_s p95_latency_s p99_latency_s "
    needed += "max_slowdown gap_closed"
    assert set(needed.split()) <= set(rows[0])


def test_quick_prints_a_table_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], empty_folder: Path
) -> None:
    main(["evaluate", "--quick", "--episodes", "2", "--requests", "40"])
    out = capsys.readouterr().out
    assert "chat-batch8-135m, load 0.9: 2 workloads of 40 requests" in out
    assert "gittins_tuned" in out
    assert not list(empty_folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--scenario", "chat"], ["expected one of chat-serial-135m", "got 'chat'"]),
        (["--policies", "fcfs,best"], ["expected one of random, fcfs", "got 'best'"]),
        (["--policies", ","], ["policies: expected at least one, got none"]),
        (["--no-such-option", "1"], ["--no-such-option"]),
        (["--env", "dream"], ["env: expected replay or live, got 'dream'"]),
        (["--env", "live", "--target", "./none"], ["target: expected", "./none"]),
        (["--env", "live", "--json", "no/folder.json"], ["expected a file in an existing folder"]),
        (["--loads", "nan"], ["load: expected a finite number > 0, got nan"]),
        (["--loads", "inf"], ["load: expected a finite number > 0, got inf"]),
        (["--loads", "0"], ["load: expected a finite number > 0, got 0"]),
        (["--loads", "0.7,-1"], ["load: expected a finite number > 0, got -1"]),
        (["--loads", "high"], ["expected a number > 0 or 'recorded'", "got 'high'"]),
        (["--loads", "recorded"], ["expected an arrival trace, got none"]),
        (["--episodes", "0"], ["episodes: expected an integer >= 1, got 0"]),
        (["--episodes", "many"], ["--episodes", "'many'"]),
        (["--loads", "1e-300"], ["load: expected the last of 40 requests within 1e+09 s, got"]),
        (["--requests", "0"], ["requests: expected an integer >= 1, got 0"]),
        (["--requests", "9" * 15], ["requests: expected an integer <= 16777216, got 999"]),
        (["--slots", "9" * 30], ["slots: expected an integer <= 16777216, got 999"]),
        (["--jobs", "0"], ["jobs: expected an integer >= 1, got 0"]),
        (["--predictor-error", "-1"], ["predictor error: expected a finite number >= 0, got -1"]),
        (["--predictor-error", "nan"], ["predictor error: expected a finite number >= 0, got nan"]),
        (["--arrival-trace", "none.csv"], ["arrival_trace: expected a file, got none.csv"]),
        (["--acceptance-trace", "none"], ["acceptance_trace: expected a file, got none"]),
        (["--acceptance-trace", "empty.safetensors"], ["empty.safetensors", "expected"]),
        (["--acceptance-trace", "empty.jsonl"], ["empty.jsonl: expected at least one record"]),
        (["--arrival-trace", "empty.csv"], ["empty.csv", "expected"]),
        (["--arrival-trace", "empty.txt"], ["expected a .csv, .jsonl", "got empty.txt"]),
        (["--lengths", "arrivals"], ["expected an arrival trace"]),
        (["--lengths", "both"], ["expected one of", "got 'both'"]),
        (["--plot", "out.gif"], ["expected a file ending in .png", "got out.gif"]),
        (["--json", "nowhere/out.json"], ["expected a file in an existing folder"]),
        (["--json", "empty.csv", "--arrival-trace", "empty.csv"], ["none of the inputs"]),
        (["--json", "a", "--parquet", "a.journal"], ["expected a file for each"]),
        (["--report", "empty.txt"], ["expected a folder that is writable", "got empty.txt"]),
        (["--report", "empty.txt/report"], ["expected a folder that is writable"]),
        (["--env", "live", "--plot", "out.png"], ["plot: expected none with env live"]),
        (["--json", "pipe"], ["expected a file in an existing folder", "got pipe"]),
        (
            ["--json", "out.png"],
            ["json, parquet, plot: expected a file for each", "got out.png, out.png"],
        ),
    ],
    ids=" ".join,
)
def test_bad_input_ends_with_a_message_and_status_2(
    arguments: list[str],
    messages: list[str],
    capsys: pytest.CaptureFixture[str],
    empty_folder: Path,
) -> None:
    for name in ("empty.safetensors", "empty.jsonl", "empty.csv", "empty.txt"):
        Path(name).touch()
    os.mkfifo("pipe")
    before = set(empty_folder.iterdir())
    with pytest.raises(SystemExit) as end:
        main([*SMALL, *arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err
    for message in messages:
        assert message in error
    assert set(empty_folder.iterdir()) == before
