"""Edits of the sources: those of words leave results as they are, those of costs do not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from golden import recorded
from test_evaluation import run

from laps_env.evaluation.grid import Grid
from laps_env.evaluation.results import write_results

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SCENARIO, POLICY = "chat-serial-135m", "fcfs"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources that is imported in place of the repository."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("laps_env", "policies", "agents"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True)
    return copy


def python(sources: Path, *arguments: str) -> str:
    places = [str(sources), str(ROOT / "tests")]
    own = {"PYTHONPATH": os.pathsep.join(places), "LAPS_ENV_CACHE": str(sources / "cache")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=sources,
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1
    file.write_text(text.replace(before, after), encoding="utf-8")


def test_other_words_in_a_report_leave_results_readable_and_true(sources: Path) -> None:
    results = sources / "results.json"
    grid = Grid(
        policies=(POLICY,), scenarios=(SCENARIO,), loads=(0.9,), episodes=2, num_requests=20
    )
    write_results(run(grid), results)
    edit(sources / "laps_env/report/leaderboard.py", '"""The leaderboard:', '"""The standings:')
    assert "1 of 1 workloads that were run again hold" in python(
        sources, "-m", "laps_env", "check", str(results), "--sample", "1"
    )
    assert f"`{POLICY}`" in python(sources, "-m", "laps_env", "board", str(results))


def test_another_cost_of_a_token_is_seen_in_the_golden_numbers(sources: Path) -> None:
    """Also where a compiled kernel of the costs as they were is in the cache."""
    edit(sources / "laps_env/sim/costs.py", "c.target_token_ns", "2 * c.target_token_ns")
    program = (
        f"import json, golden; print(json.dumps(golden.of_scenario({SCENARIO!r}, {[POLICY]})))"
    )
    found = json.loads(python(sources, "-c", program))
    assert found[POLICY] != recorded()["scenarios"][SCENARIO][POLICY]
