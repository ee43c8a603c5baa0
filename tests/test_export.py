"""Rows of results and requests of episodes as tables that other tools read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from result_rows import make_results, make_row

from laps_env.cli import main
from laps_env.evaluation.results import write_results
from laps_env.report.export import export_rows
from laps_env.report.request_table import request_table
from laps_env.report.timeline import Timeline
from laps_env.sim.state import LIMITS, NO_LIMIT, REQUEST

ROW = make_row(
    "50%_{a}|b",
    1 / 3,
    mean_latency_ci95=(0.25, 0.5),
    parameters={"queues": 4.0},
    gap_closed=None,
)
RESULTS = make_results(ROW, make_row("laps_sd_tuned"))
COLUMNS = ["policy", "mean_latency_s", "mean_latency_ci95", "parameters", "gap_closed"]


def export(tmp_path: Path, name: str, *columns: str) -> str:
    export_rows(RESULTS, tmp_path / name, columns)
    return (tmp_path / name).read_text()


def test_csv_has_all_entries_in_full(tmp_path: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(export(tmp_path, "rows.csv"))))
    rows = json.loads(msgspec.json.encode(RESULTS.rows))
    for line, row in zip(lines, rows, strict=True):
        assert list(line) == list(row)
        for name, value in row.items():
            text = isinstance(value, str)
            assert line[name] == value if text else json.loads(line[name] or "null") == value, name


def test_markdown_has_four_digits(tmp_path: Path) -> None:
    line = export(tmp_path, "rows.md", *COLUMNS).splitlines()[2]
    assert line == r"| 50%_{a}\|b | 0.3333 | [0.25, 0.5] | queues=4 | n/a |"


def test_latex_is_escaped_and_aligned(tmp_path: Path) -> None:
    lines = export(tmp_path, "rows.tex", *COLUMNS).splitlines()
    assert lines[:4] == [
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"policy & mean\_latency\_s & mean\_latency\_ci95 & parameters & gap\_closed \\",
        r"\midrule",
    ]
    assert lines[4] == (r"50\%\_\{a\}\textbar{}b & 0.3333 & {[}0.25, 0.5{]} & queues=4 & n/a \\")
    assert lines[6:] == [r"\bottomrule", r"\end{tabular}"]


def test_the_command_writes_a_table_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(RESULTS, Path("results.json"))
    main(["report", "results.json", "--export", "rows.csv", "--columns", "policy,load"])
    assert capsys.readouterr().out == "rows.csv\n"
    assert Path("rows.csv").read_text() == "policy,load\n50%_{a}|b,0.9\nlaps_sd_tuned,0.9\n"

    def expect(message: str, *options: str) -> None:
        with pytest.raises(SystemExit) as stopped:
            main(["report", "results.json", *options])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err

    expect("expected a name that is free", "--export", "rows.csv")
    expect("ending: expected one of .csv, .md, .tex, .parquet; got '.txt'", "--export", "a.txt")
    unknown = ["--export", "a.csv", "--columns", "policy,p98"]
    expect("columns: expected one of scenario, load, policy, ", *unknown)
    expect("columns: expected each once", "--export", "a.csv", "--columns", "load,load")
    expect("columns: expected none without --export", "--columns", "load")
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "rows.csv"}


def test_a_request_has_a_line_with_its_times_in_seconds() -> None:
    requests = np.zeros(2, REQUEST)
    for name in LIMITS:
        requests[name] = NO_LIMIT
    first: dict[str, Any] = {
        "arrival_ns": 0,
        "prompt_tokens": 7,
        "output_tokens": 3,
        "predicted_tokens": 2.5,
        "first_token_ns": 1_500_000_000,
        "completion_ns": 4_000_000_000,
        "preemptions": 1,
        "drafted": 8,
        "accepted": 2,
        "attained_ns": 2_000_000_000,
        "longest_idle_ns": 1_000_000_000,
        "longest_stall_ns": 1_250_000_000,
        "e2e_limit_ns": 4_000_000_000,
    }
    for name, value in first.items():
        requests[0][name] = value
    requests[1]["arrival_ns"] = 3_000_000_001
    lines = request_table([Timeline("fcfs", ("chat",), requests)]).splitlines()
    assert lines[1] == "fcfs,0,chat,0.0,7,3,2.5,1.5,4.0,1,8,2,2.0,1.0,1.25,True"
    assert lines[2] == "fcfs,1,chat,3.000000001,0,0,0.0,,,0,0,0,0.0,0.0,0.0,"


def test_timeline_writes_the_requests_of_each_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["--policies", "fcfs,las:queues=4", "--requests", "3"]
    main(["timeline", *asked, "--csv", "requests.csv"])
    lines = list(csv.DictReader(Path("requests.csv").read_text().splitlines()))
    assert [line["policy"] for line in lines] == ["fcfs"] * 3 + ["las:queues=4"] * 3
    assert [line["arrival_s"] for line in lines[:3]] == [line["arrival_s"] for line in lines[3:]]
    assert all(float(line["completion_s"]) > float(line["first_token_s"]) for line in lines)
