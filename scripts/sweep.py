"""Train and evaluate many schedulers: a grid as Ray tasks, here or on a cluster.

    python scripts/sweep.py sweeps/learned.toml --out runs/learned
    python scripts/sweep.py sweeps/learned.toml --out runs/learned --address ray://head:10001

What a file asks for: `laps_env.agents.sweep.read_sweep`. The same command goes on where a sweep was
cut off.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from laps_env.agents.runs import about_run
from laps_env.agents.sweep import (
    Sweep,
    Tasks,
    Training,
    Trial,
    digest,
    read_model,
    read_sweep,
    write_model,
)
from laps_env.policies.networks.model_file import is_model
from laps_env.sim import SIMULATOR_VERSION
from laps_env.utils.checks import check_count
from laps_env.utils.journal import LineJournal


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="TOML file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--address", help="of a Ray cluster; this machine by default")
    parser.add_argument("--attempts", type=int, default=3, help="at a task that fails or is lost")
    parser.add_argument("--cores", type=int, default=1, help="that a task reserves")
    given = parser.parse_args(argv)
    try:
        check_count("attempts", given.attempts)
        check_count("cores", given.cores)
        sweep = read_sweep(given.sweep)
        given.out.mkdir(parents=True, exist_ok=True)
        rows = LineJournal(given.out / "rows.journal", {"simulator": SIMULATOR_VERSION})
        import ray

        ray.init(address=given.address, log_to_driver=False, configure_logging=False)
        failed = run(sweep, given.out, rows, Tasks(given.attempts, given.cores))
    except (ConnectionError, ImportError, OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted: the same command goes on where this one was\n")
    if failed:
        parser.exit(1, f"{failed} tasks failed; the same command tries them again\n")


def is_finished(training: Training, folder: Path) -> bool:
    """Whether the folder holds the model of this training.

    Raises:
        ValueError: it holds one of that name that was trained otherwise, or shorter.
    """
    own = folder / training.name
    if not is_model(own):
        return False
    journal = LineJournal(own / "journal", about_run(training.options))
    if training.budget.spent(journal.entries) < 1:
        raise ValueError(f"{own}: expected a run of {training.budget}, got a shorter one")
    return True


def run(sweep: Sweep, folder: Path, rows: LineJournal, tasks: Tasks) -> int:
    """Do what the folder does not hold; how many tasks failed for good."""
    known = {str(entry["key"]): entry["row"].get("model") for entry in rows.entries}
    finished = [training for training in sweep.trainings if is_finished(training, folder)]
    for trial in (t for training in sweep.trainings for t in sweep.trials(training)):
        if str(trial.key) in known and trial.name not in [training.name for training in finished]:
            raise ValueError(f"{folder}: expected the model {trial.name}, of which it has results")

    def trained(training: Training, files: dict[str, bytes]) -> None:
        write_model(folder / training.name, files)
        print(f"trained {training.name}", flush=True)
        evaluate(training)

    def evaluate(training: Training) -> None:
        files = read_model(folder / training.name)
        shared = tasks.put(files)
        for trial in sweep.trials(training):
            if str(trial.key) not in known:
                tasks.start(trial, shared, done=partial(evaluated, trial))
            elif known[str(trial.key)] != digest(files):
                raise ValueError(f"{folder}: expected results of {trial.name} as it is, got older")

    def evaluated(trial: Trial, row: dict[str, Any]) -> None:
        rows.add({"key": trial.key, "row": row})
        print(f"evaluated {trial.key}: {row['ratio_to_reference']:.3f}", flush=True)

    for trial in sweep.rivals():
        if str(trial.key) not in known:
            tasks.start(trial, done=partial(evaluated, trial))
    for training in sweep.trainings:
        if training in finished:
            evaluate(training)
        else:
            tasks.start(training, done=partial(trained, training))
    failed = 0
    for error in tasks.collect():
        print(f"failed: {error}", file=sys.stderr, flush=True)
        failed += 1
    return failed


if __name__ == "__main__":
    main()
