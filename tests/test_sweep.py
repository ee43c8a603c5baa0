"""Sweeps: what a file asks for, tasks on two machines, tries again, nothing done twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sb3_contrib")
ray = pytest.importorskip("ray")

from laps_env.agents.options import Budget, IndexOptions  # noqa: E402
from laps_env.agents.sweep import read_sweep  # noqa: E402
from laps_env.agents.sweep_run import Tasks  # noqa: E402

SWEEP = """
[[train]]
name = "index"
algorithm = "index"
seeds = [0, 1]
blocks = 1
scenario = ["chat-batch8-8b"]
loads = [0.9]
num_requests = 20
repeats = 1

[[evaluate]]
policies = ["fcfs"]
scenarios = ["chat-batch8-8b"]
loads = [0.8]
predictor_errors = ["None", 0.3]
episodes = 2
num_requests = 20
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP)
    return path


# -- files ----------------------------------------------------------------------------------------


def test_a_sweep_is_read(file: Path) -> None:
    sweep = read_sweep(file)
    options = IndexOptions(scenario=("chat-batch8-8b",), loads=(0.9,), num_requests=20, repeats=1)
    assert [t.name for t in sweep.trainings] == ["index-0", "index-1"]
    assert sweep.trainings[0].options == options
    assert sweep.trainings[1].budget == Budget(blocks=1)
    trials = sweep.trials(sweep.trainings[0])
    assert [trial.key for trial in trials] == [
        {
            "name": "index-0",
            "scenarios": ["chat-batch8-8b"],
            "loads": [0.8],
            "predictor_error": error,
            "episodes": 2,
            "num_requests": 20,
        }
        for error in (None, 0.3)
    ]
    assert [trial.name for trial in sweep.rivals()] == ["fcfs", "fcfs"]
    file.write_text(SWEEP.replace("policies", 'models = ["*-1"]\npolicies'))
    sweep = read_sweep(file)
    assert [len(sweep.trials(training)) for training in sweep.trainings] == [0, 2]


def test_a_run_for_each_scenario(file: Path) -> None:
    text = SWEEP.replace('scenario = ["chat-batch8-8b"]', 'each = ["demo", "chat-serial-135m"]', 1)
    file.write_text(text)
    sweep = read_sweep(file)
    found = [(t.name, t.options.scenario, t.options.seed) for t in sweep.trainings]
    assert found == [
        ("index-demo-0", ("demo",), 0),
        ("index-demo-1", ("demo",), 1),
        ("index-chat-serial-135m-0", ("chat-serial-135m",), 0),
        ("index-chat-serial-135m-1", ("chat-serial-135m",), 1),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[train]]", "[[train", "expected TOML, got"),
        ("[[evaluate]]", "[[judge]]", "judge: expected no such member"),
        ('algorithm = "index"', 'algorithm = "sac"', "algorithm: expected one of"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "expected different names"),
        ("seeds = [0, 1]", "seeds = [-1]", "seeds: expected an integer >= 0"),
        ("seeds = [0, 1]", "seeds = []", "seeds: expected a list of length >= 1"),
        ('name = "index"', 'name = "../../x"', "name: expected letters, digits"),
        ('name = "index"', 'name = "a\\u0000b"', "name: expected letters, digits"),
        ('name = "index"', 'name = ["index"]', "train.name: expected a text"),
        ("blocks = 1", "blocks = 0", "blocks: expected an integer >= 1, got 0"),
        ("blocks = 1", "", "budget: expected minutes or blocks"),
        ('name = "index"', "", "train.name: expected a value, got none"),
        ('["chat-batch8-8b"]', '"chat-batch8-8b"', "scenario: expected a list, got"),
        ("repeats = 1", "repeat = 1", "options of index: expected one of .*; got 'repeat'"),
        ("loads = [0.8]", "loads = [-1]", "load: expected a finite number > 0"),
        ('scenarios = ["chat', 'scenarios = ["no', "scenario: expected one of"),
    ],
)
def test_bad_files_are_refused(file: Path, old: str, new: str, message: str) -> None:
    file.write_text(SWEEP.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        read_sweep(file)
    assert str(error.value).startswith(f"{file}: ")


# -- two machines ---------------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without cores, and two machines with one each."""
    from ray.cluster_utils import Cluster

    # The workers cannot import this file: send them its functions themselves.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.add_node(num_cpus=1)
    made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


def fails_once(path: Path) -> str:
    if not path.exists():
        path.write_text("tried")
        raise RuntimeError("for the first time")
    return "done"


def fails() -> None:
    raise RuntimeError("always")


def hangs_on_its_first_machine(path: Path) -> str:
    node: str = ray.get_runtime_context().get_node_id()
    if not path.exists():
        path.write_text(node)
        time.sleep(600)
    return node


@pytest.mark.slow
def test_what_fails_or_is_lost_is_tried_again(cluster: Any, tmp_path: Path) -> None:
    ray.init(address=cluster.address, log_to_driver=False)
    tasks = Tasks(attempts=2, cores=1)
    done: list[Any] = []
    tasks.start(fails_once, tmp_path / "tried", done=done.append)
    tasks.start(fails, done=done.append)
    errors = list(tasks.collect())
    assert done == ["done"]
    assert len(errors) == 1
    assert "always" in str(errors[0])

    place = tmp_path / "place"
    tasks.start(hangs_on_its_first_machine, place, done=done.append)
    while not place.exists():
        time.sleep(0.1)
    first = place.read_text()
    (lost,) = [node for node in cluster.list_all_nodes() if node.node_id == first]
    cluster.remove_node(lost, allow_graceful=False)
    assert not list(tasks.collect())
    assert done[-1] != first


@pytest.mark.slow
def test_a_sweep_on_two_machines_goes_on_where_it_was(
    cluster: Any, file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "laps_env", "sweep", str(file), "--out", str(tmp_path / "out")]
    command += ["--address", cluster.address]
    subprocess.run(command, check=True, capture_output=True)
    out = tmp_path / "out"
    rows = [json.loads(line) for line in (out / "rows.journal").read_text().splitlines()[1:]]
    assert len(rows) == 6
    assert {row["row"]["policy"] for row in rows} == {"fcfs", "index-0", "index-1"}
    assert all(np.isfinite(row["row"]["ratio_to_reference"]) for row in rows)
    models = {path: path.read_bytes() for path in out.glob("index-*/*")}
    assert len(models) == 6

    journal = out / "rows.journal"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))  # killed before the last row
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert again.stdout.count("evaluated") == 1
    assert "trained" not in again.stdout
    finished = [json.loads(line)["row"] for line in journal.read_text().splitlines()[1:]]
    same = "mean_latency_s"
    assert sorted(r[same] for r in finished) == sorted(row["row"][same] for row in rows)
    assert {path: path.read_bytes() for path in models} == models

    rows_before = journal.read_text()
    journal.write_text(rows_before.replace('"model": "', '"model": "0'))  # of other weights
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "expected results of index-0 as it is, got older" in refused.stderr
    journal.write_text(rows_before)

    file.write_text(SWEEP.replace("repeats = 1", "repeats = 2"))
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "journal: expected a journal of" in refused.stderr
