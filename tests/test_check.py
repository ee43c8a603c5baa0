"""Results files are run again: what holds, what does not, what cannot be checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_evaluation import GRID, run

from laps_env import policies
from laps_env.cli import main
from laps_env.evaluation.results import read_results, write_results


def test_a_results_file_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, path = run(GRID), tmp_path / "results.json"
    write_results(results, path)
    main(["check", str(path), "--sample", "7"])
    assert "7 of 7 workloads that were run again hold, bit for bit" in capsys.readouterr().out

    for k, row in enumerate(results.rows):  # claims that nobody would see
        (row.episode_mean_latency_s, row.episode_p99_latency_s)[k % 2][0] *= 1 - 1e-15
    write_results(results, path)
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(path), "--sample", "1000"])
    assert stopped.value.code == 1
    told = capsys.readouterr().out
    rows, runs = len(results.rows), len(results.rows) * GRID.episodes
    assert f"{runs - rows} of {runs} workloads" in told
    assert told.count("expected mean and p99 latency") == rows


def of_rows(**values: Any) -> Callable[[dict[str, Any]], None]:
    """A change of all rows."""

    def change(results: dict[str, Any]) -> None:
        for row in results["rows"]:
            row.update(values)

    return change


def of_first(**values: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the first row."""
    return lambda results: results["rows"][0].update(values)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of a results file."""
    path = tmp_path_factory.mktemp("results") / "results.json"
    write_results(run(replace(GRID, scenarios=("code-serial-8b",))), path)
    return path.read_text()


def check_error(text: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The message with which a results file of this text is refused."""
    path = folder / "results.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(path)])
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format="other"), "format: expected 'laps-env results', got 'other'"),
        (lambda r: r.update(version=3), "version: expected 2, got 3"),
        (lambda r: r.update(rows=[]), r"rows: expected a list of length >= 1, got \[\]"),
        (lambda r: r["rows"][0].pop("slots"), r"rows\[0\].slots: expected a value, got none"),
        (of_first(seeds=3), r"rows\[0\].seeds: expected a list, got 3"),
        (lambda r: r["rows"][0]["seeds"].pop(), r"rows\[0\]: seeds: expected 3, one per episode"),
        (lambda r: r.pop("created"), "created: expected a value, got none"),
        (lambda r: r.update(created="a\nb"), "created: expected a text of one line"),
        (lambda r: r["rows"].insert(0, 3), r"rows\[0\]: expected an object, got 3"),
        (of_first(parameters=3), r"rows\[0\].parameters: expected an object"),
        (of_first(policy=["x"]), r"rows\[0\].policy: expected a text, got \['x'\]"),
        (of_first(source={}), r"rows\[0\]: source: expected where acceptance"),
        (of_first(source={"acceptance": "\x1b[2J"}), r"source: expected a text of one line"),
        (of_first(load="high"), r"rows\[0\]: load: expected a finite number > 0, got 'high'"),
        (of_first(predictor_error="x"), "predictor_error: expected a number or 'recorded'"),
        (of_first(gap_closed=math.nan), "expected JSON"),
        (of_first(ratio_ci95=[1.0]), r"rows\[0\].ratio_ci95: expected a list of length 2"),
        (lambda r: r["rows"][0].pop("max_idle_s"), "max_idle_s: expected a value, got none"),
        (of_first(max_slowdown=-1), r"rows\[0\].max_slowdown: expected a number > 0.0, got -1"),
        (of_first(seeds=["a"] * 3), r"rows\[0\].seeds\[0\]: expected an integer, got 'a'"),
        (of_first(seeds=[1, 1, 2]), r"rows\[0\]: seeds: expected different ones"),
        (of_first(slots=1.5), r"rows\[0\].slots: expected an integer"),
        (of_first(mean_latency_s=0.1), r"rows\[0\]: mean_latency_s: expected the mean of epis"),
        (of_first(p99_latency_s=0.1), r"rows\[0\]: p99_latency_s: expected the mean of episode"),
        (of_rows(oracle="\x1b[2J"), r"rows\[0\]: oracle: expected a text of one line"),
        (of_first(policy="a\nb"), r"rows\[0\]: policy: expected a text of one line"),
        (of_first(policy_digest="\x1b[2J"), r"rows\[0\].policy_digest: expected a text matching"),
        (of_first(recordings={"prompts": 5}), r"rows\[0\].recordings.prompts: expected a text"),
        (of_first(recordings={"lengths": "x"}), r"rows\[0\].recordings.lengths: "),
        (of_first(reference="fcfs"), "rows: expected one reference for all, got"),
        (of_rows(reference="random"), "rows: expected one of random at code-serial-8b, load 0.9"),
        (lambda r: r["rows"].append(r["rows"][0]), "rows: expected one per scenario, load and pol"),
        (of_rows(parameters={"name": "x"}), r"rows\[0\].parameters.*: expected a number"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    stored: str, change: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = json.loads(stored)
    change(results)
    assert re.search(message, check_error(json.dumps(results), tmp_path, capsys))


CANNOT = "code-serial-8b, load 0.9, .*: cannot be run again: "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            of_rows(policy_digest="abcd"),
            CANNOT + r"policy \w+\S* has changed: expected digest abcd",
        ),
        (of_rows(scenario_digest="abcd"), CANNOT + "scenario code-serial-8b has changed: expected"),
        (of_rows(saturation_rps=1.0), CANNOT + "scenario code-serial-8b has changed"),
        (
            of_rows(simulator=1),
            CANNOT + "expected a row of simulator version .*got one of version 1",
        ),
        (of_rows(backend="live"), "cannot be run again: expected a row of the replay"),
        (of_rows(parameters={"name": 1}), CANNOT + ".*name"),
        (of_rows(split="final"), CANNOT + "split: expected one of"),
        (
            of_rows(recordings={"arrival_trace": "none.csv"}),
            CANNOT + "arrival_trace: expected a fi",
        ),
    ],
)
def test_a_row_of_something_that_has_changed_says_what(
    stored: str, change: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = json.loads(stored)
    change(results)
    assert re.search(message, check_error(json.dumps(results), tmp_path, capsys))


@pytest.mark.parametrize("format_", ["laps-env-results", "laps-env live results"])
def test_a_file_of_version_1_is_told_what_it_is(
    format_: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps({"format": format_, "version": 1, "code": "0.1.0+ab", "rows": [{"load": 1}]})
    told = check_error(text, tmp_path, capsys)
    assert "expected results of version 2, got results of version 1" in told
    assert "run the evaluation again" in told


OWN = """
from laps_env.sim.observation import ARRIVAL_NUMBER
from laps_env.policies import RuleSpec, rule


@rule
def last_first(row, server, params, memory):
    return -row[ARRIVAL_NUMBER]


spec, number = RuleSpec("last_first", "last come first served", last_first), 3
"""


def test_your_own_rule_is_played_from_its_file_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(OWN)
    grid = "--scenario chat-batch8-135m --loads 0.9 --episodes 2 --requests 40"
    main(["evaluate", *grid.split(), "--policies", "fcfs,mine.py:spec"])
    first, mine, _ = read_results(Path("results.json")).rows
    assert mine.policy == "mine.py:spec"
    assert first.mean_latency_s != mine.mean_latency_s
    main(["check", "results.json"])
    assert "6 of 6 workloads" in capsys.readouterr().out

    Path("mine.py").write_text(OWN.replace("-row", "row"))
    with pytest.raises(SystemExit) as stopped:
        main(["check", "results.json"])
    assert stopped.value.code == 2
    assert "policy mine.py:spec has changed: expected digest" in capsys.readouterr().err


def test_threads_may_make_your_own_rule_at_once(tmp_path: Path) -> None:
    file = tmp_path / "made_by_many.py"
    file.write_text(OWN + "import time\ntime.sleep(0.2)\n")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(policies.make, [f"{file}:spec"] * 8))
    assert len({id(policy.spec) for policy in made}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef f(:", "broken.py: line 2: expected a file that can be imported, got Syntax"),
        ("\n\nx = 1 / 0", "broken.py: line 3: .*got ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(7)", "broken.py: line 2: .*got SystemExit: 7"),
        (
            OWN.replace("row, server", "row"),
            "broken.py: line 6: .*TypeError: .*expected 4 argum",
        ),
    ],
)
def test_a_rule_that_cannot_be_imported_says_why_in_a_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--quick", "--policies", f"{file}:spec"])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert re.search(message, told)
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py:spec", "policy: expected a file with a rule, got none.py"),
        ("mine.py:rule_of_mine", "expected a RuleSpec of that name in the file, got None"),
        ("mine.py:number", "expected a RuleSpec of that name in the file, got 3"),
        ("mine.py", "expected the name of the RuleSpec behind the file, mine.py:NAME"),
        ("json.py:spec", "expected a file that is named like no other module"),
        ("antigravity.py:spec", "expected a file that is named like no other module"),
    ],
)
def test_a_file_without_the_rule_is_refused(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("mine.py", "json.py", "antigravity.py"):
        Path(file).write_text(OWN)
    with pytest.raises(ValueError, match=message):
        policies.make(name)
