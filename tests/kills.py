"""Long jobs, killed at random instants: resumed, they leave what the unbroken one left.

`make faults` kills each of them in 20 loops; status 1 where anything but times differs.
"""

from __future__ import annotations

import os

# Before torch is imported: barriers between threads cost more than tiny models do.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import contextlib
import io
import multiprocessing
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
from tiny_models import tiny_pair

from laps_env.agents import runs
from laps_env.agents.options import Budget, IndexOptions, PPOOptions
from laps_env.catalog import list_rules
from laps_env.cli import main as laps_env
from laps_env.evaluation.tuning import TuningBudget
from laps_env.evaluation.tuning_job import tune_all
from laps_env.live.measure.record import Recipe, record_traces
from laps_env.policies._registry import get_rule
from laps_env.traces import AcceptanceTrace

SCENARIO = "mixed-batch8-135m"
#: Kills of a loop; the job that follows the last one ends.
KILLS = 2
#: What may differ: when and how long, and what stable-baselines3 logs.
_TIMES = re.compile(rb'"seconds": [0-9.e-]+|20\d\d-\d\d-\d\d(T\d\d:\d\d:\d\d)?')
_LOG = "log"


def evaluate() -> None:
    """24 runs, a results file, a report."""
    words = f"--scenario {SCENARIO} --policies fcfs,las,laps_sd --episodes 6 --requests 100"
    files = "--loads 0.9 --json out.json --report report --jobs 1 --overwrite"
    laps_env(["evaluate", *words.split(), *files.split()])


def train_ppo() -> None:
    """Four blocks of PPO."""
    options = PPOOptions(
        scenario=(SCENARIO,),
        loads=(0.9,),
        num_requests=10,
        slots=16,
        envs=4,
        rollout=16,
        rollouts=2,
        imitation_steps=20,
        minibatch=32,
    )
    _train(options)


def train_index() -> None:
    """Four blocks of the search for an index."""
    _train(IndexOptions(scenario=(SCENARIO,), loads=(0.9,), num_requests=20, repeats=1))


def _train(options: PPOOptions | IndexOptions) -> None:
    runs.VALIDATION_REQUESTS, runs.VALIDATION_WORKLOADS = 40, 1
    runs.train(options, Path("run"), Budget(blocks=4), lambda share, text: None)


def tune() -> None:
    """Every rule on a scenario."""
    budget = TuningBudget(
        sampled=2,
        refined=1,
        loads=(0.9,),
        seeds=(0,),
        finalists=1,
        final_seeds=(6,),
        num_requests=50,
    )
    rules = [rule for rule in list_rules() if get_rule(rule).parameters]
    tune_all(budget, Path("tuned.json"), rules, [SCENARIO], Path("journal"))


def sweep() -> None:
    """Two trainings and their evaluations as Ray tasks."""
    Path("sweep.toml").write_text(
        f"""
        [[train]]
        name = "index"
        algorithm = "index"
        seeds = [0, 1]
        blocks = 1
        scenario = ["{SCENARIO}"]
        loads = [0.9]
        num_requests = 20
        repeats = 1

        [[evaluate]]
        policies = ["fcfs"]
        scenarios = ["{SCENARIO}"]
        loads = [0.8, 0.9]
        episodes = 2
        num_requests = 20
        """
    )
    laps_env(["sweep", "sweep.toml", "--out", "out"])


def record() -> None:
    """The traces of a tiny pair on 24 prompts."""
    lines = [f'{{"prompt": "{"ab" * (k % 7 + 1)} {k}", "category": "chat"}}' for k in range(24)]
    Path("prompts.jsonl").write_text("\n".join(lines))
    recipe = Recipe(("prompts.jsonl",), limit=24, longest=24, batch=3)
    record_traces(tiny_pair(), recipe, Path(), "pair", lambda parts, total, name: parts)
    for path in Path().glob("pair-t*.safetensors"):  # how long a round took is measured
        trace = AcceptanceTrace.load(path)
        assert trace.round_ns is not None
        replace(trace, round_ns=np.zeros_like(trace.round_ns)).save(path)


JOBS: dict[str, Callable[[], None]] = {
    job.__name__: job for job in (evaluate, train_ppo, train_index, tune, sweep, record)
}


def main() -> int:
    """Kill and compare; the exit status."""
    options = argparse.ArgumentParser(prog="kills", description="Kill long jobs.")
    options.add_argument("--loops", type=int, default=20, help="loops of each job")
    options.add_argument("--seed", type=int, default=0, help="seed of the instants")
    options.add_argument("jobs", nargs="*", help=f"all by default: {', '.join(JOBS)}")
    asked = options.parse_args()
    different: list[str] = []
    print(f"{'job':12}{'loops':>8}{'kills':>8}{'equal':>8}")
    for job in asked.jobs or JOBS:
        kills, found = killed(job, asked.loops, asked.seed)
        print(f"{job:12}{asked.loops:8}{kills:8}{asked.loops - len(found):8}", flush=True)
        different += found
    print("\n".join(different))
    return 1 if different else 0


def killed(job: str, loops: int, seed: int) -> tuple[int, list[str]]:
    """Kills that met the job at work, and what differed from the unbroken job in each loop."""
    kills, different = 0, []
    with tempfile.TemporaryDirectory() as place:
        unbroken = Path(place) / "unbroken"
        _run(job, unbroken)  # whose first compilation counts as no work
        shutil.rmtree(unbroken)
        began = time.monotonic()
        _run(job, unbroken)
        seconds = time.monotonic() - began
        right = contents(unbroken)
        for loop in range(loops):
            rng, folder = Random(f"{job} {seed} {loop}"), Path(place) / f"{loop}"
            kills += sum(_run(job, folder, rng.uniform(0, seconds)) for _ in range(KILLS))
            _run(job, folder)
            left = contents(folder)
            names = sorted(n for n in right.keys() | left.keys() if right.get(n) != left.get(n))
            if names:
                different.append(f"{job} --seed {seed}, loop {loop}: {', '.join(names)}")
    return kills, different


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a folder without times; the lines of a journal in any order."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and _LOG not in name.parts:
            data = _TIMES.sub(b"", path.read_bytes())
            lines = sorted(data.splitlines()) if path.name.endswith("journal") else [data]
            found[str(name)] = b"\n".join(lines)
    return found


def _run(job: str, folder: Path, seconds: float | None = None) -> bool:
    """Run a job in a folder, to its end or until it is killed, which is told."""
    folder.mkdir(exist_ok=True)
    worker = multiprocessing.get_context("fork").Process(target=_work, args=(job, folder))
    worker.start()
    worker.join(seconds)
    killed = worker.exitcode is None
    worker.kill()
    worker.join()
    if worker.exitcode and not killed:
        raise RuntimeError(f"{job}: expected status 0, got {worker.exitcode}")
    return killed


def _work(job: str, folder: Path) -> None:
    os.chdir(folder)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            JOBS[job]()
    except BaseException:
        print(said.getvalue(), file=sys.stderr)
        raise


if __name__ == "__main__":
    sys.exit(main())
