"""Results files are run again: what holds, what does not, what cannot be checked."""

from __future__ import annotations

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from test_evaluation import GRID, run

from laps_env import policies
from laps_env.cli import main


def test_a_results_file_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, path = run(GRID), tmp_path / "results.json"
    path.write_text(json.dumps(results))
    main(["check", str(path), "--sample", "7"])
    assert "7 of 7 workloads that were run again hold, bit for bit" in capsys.readouterr().out

    for k, row in enumerate(results["rows"]):  # claims that nobody would see
        row[("episode_mean_latency_s", "episode_p99_latency_s")[k % 2]][0] *= 1 - 1e-15
    path.write_text(json.dumps(results))
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(path), "--sample", "1000"])
    assert stopped.value.code == 1
    told = capsys.readouterr().out
    rows, runs = len(results["rows"]), len(results["rows"]) * GRID.episodes
    assert f"{runs - rows} of {runs} workloads" in told
    assert told.count("expected mean and p99 latency") == rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format="other"), "format: expected 'laps-env-results', got 'other'"),
        (lambda r: r.update(version=2), "version: expected 1, got 2"),
        (lambda r: r.update(code="0.0"), "code: expected results of"),
        (lambda r: r.update(rows=[]), "rows: expected at least one"),
        (lambda r: r["rows"][0].pop("slots"), r"row 0: expected .* \['slots'\] missing"),
        (lambda r: r["rows"][0].update(seeds=3), "row 0: seeds: expected a list of 3, got 3"),
        (
            lambda r: r["rows"][0]["seeds"].pop(),
            "row 0: seeds: expected a list of 3, got",
        ),
        (lambda r: [row.update(policy="mine") for row in r["rows"]], "mine.*expected one of"),
        (lambda r: r.pop("created"), "created: expected a text, got None"),
        (lambda r: r["rows"].insert(0, 3), "row 0: expected an object, got int"),
        (lambda r: r["rows"][0].update(parameters=3), "row 0: parameters: expected an object"),
        (lambda r: r["rows"][0].update(policy=["x"]), "row 0: policy: expected a text"),
        (lambda r: r["rows"][0].update(source={}), "row 0: source: expected where acceptance"),
        (lambda r: r["rows"][0].update(recordings={"x": 1}), "row 0: recordings: .*unexpected"),
        (lambda r: r["rows"][0].update(load="high"), "row 0: load: expected a finite number > 0"),
        (lambda r: r["rows"][0].update(gap_closed=math.nan), "row 0: gap_closed: expected"),
        (lambda r: r["rows"][0].update(ratio_ci95=[1.0]), "row 0: ratio_ci95: expected two"),
        (lambda r: r["rows"][0].pop("max_idle_s"), r"row 0: expected .* \['max_idle_s'\] missing"),
        (lambda r: r["rows"][0].update(max_slowdown=-1), "row 0: max_slowdown: expected a finite"),
        (lambda r: r["rows"][0].update(seeds=["a"] * 3), "row 0: seeds: expected different int"),
        (lambda r: r["rows"][0].update(seeds=[1, 1, 2]), "row 0: seeds: expected different int"),
        (lambda r: r["rows"][0].update(slots=1.5), "row 0: slots: expected an integer"),
        (lambda r: r["rows"][0].update(mean_latency_s=0.1), "row 0: mean_latency_s: expected the"),
        (lambda r: r["rows"][0].update(p99_latency_s=0.1), "row 0: p99_latency_s: expected the"),
        (lambda r: r["rows"][0].update(policy="a\nb"), "row 0: policy: expected a text of one li"),
        (lambda r: r["rows"][0].update(parameters={"name": "x"}), "row 0: parameters: expected nu"),
        (lambda r: [row.update(parameters={"name": 1}) for row in r["rows"]], "seed .*name"),
        (lambda r: r["rows"][0].update(recordings={"prompts": 5}), "row 0: prompts: expected a pa"),
    ],
)
def test_a_file_that_cannot_be_checked_is_refused(
    change: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, path = json.loads(json.dumps(run(GRID))), tmp_path / "results.json"
    change(results)
    path.write_text(json.dumps(results))
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(path)])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


OWN = """
from laps_env.sim.observation import ARRIVAL_NUMBER
from laps_env.policies import RuleSpec, rule


@rule
def last_first(row, server, params, memory):
    return -row[ARRIVAL_NUMBER]


spec, number = RuleSpec("last_first", "last come first served", last_first), 3
"""


def test_a_rule_of_ones_own_is_played_from_its_file_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(OWN)
    grid = "--scenario chat-batch8-135m --loads 0.9 --episodes 2 --requests 40 --policies fcfs,mine.py:spec"
    main(["evaluate", *grid.split()])
    first, mine = json.loads(Path("results.json").read_text())["rows"]
    assert (first["policy_sha256"], mine["policy"]) == (None, "mine.py:spec")
    assert first["mean_latency_s"] != mine["mean_latency_s"]
    main(["check", "results.json"])
    assert "4 of 4 workloads" in capsys.readouterr().out

    Path("mine.py").write_text(OWN.replace("-row", "row"))
    with pytest.raises(SystemExit) as stopped:
        main(["check", "results.json"])
    assert stopped.value.code == 2
    assert "mine.py:spec: expected sha256" in capsys.readouterr().err


def test_threads_may_make_a_rule_of_ones_own_at_once(tmp_path: Path) -> None:
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
        (OWN.replace("row, server", "row"), "broken.py: line 6: .*got TypeError: Signature"),
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
        ("mine.py", "policy: expected one of"),
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
