"""A sweep on its way: tasks under way on Ray, models and rows kept as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from laps_env.agents.runs import Block, about_run
from laps_env.agents.sweep import FILES, Sweep, Training, Trial, digest
from laps_env.policies.networks.model_file import is_model
from laps_env.utils.files import write_beside
from laps_env.utils.journal import Journal


class Finished(TypedDict):
    """A line of the sweep's journal."""

    key: dict[str, Any]
    row: dict[str, Any]


class Tasks:
    """Ray tasks under way: started, tried again, collected as they finish.

    Args:
        attempts: Attempts at a task that fails or is lost.
        cores: Cores that each task reserves.
    """

    def __init__(self, attempts: int, cores: int) -> None:
        import ray

        self._ray = ray
        self._options = {
            "max_retries": attempts - 1,
            "retry_exceptions": True,
            "num_cpus": cores,
        }
        self._pending: dict[Any, Callable[[Any], None]] = {}

    def put(self, value: Any) -> Any:
        """A reference that tasks can share."""
        return self._ray.put(value)

    def start(self, task: Callable[..., Any], *args: Any, done: Callable[[Any], None]) -> None:
        """Run a task somewhere; ``done`` gets its result here."""
        remote = self._ray.remote(_call).options(**self._options)
        self._pending[remote.remote(task, *args)] = done

    def collect(self) -> Iterator[Exception]:
        """Until nothing is under way; yields what tasks failed with at their last attempt."""
        while self._pending:
            (ready, *_), _ = self._ray.wait(list(self._pending))
            done = self._pending.pop(ready)
            try:
                result = self._ray.get(ready)
            except self._ray.exceptions.RayError as error:
                yield error
            else:
                done(result)


def _call(task: Callable[..., Any], *args: Any) -> Any:
    return task(*args)


def is_finished(training: Training, folder: Path) -> bool:
    """Whether the folder holds the model of this training.

    Raises:
        ValueError: It holds one of that name that was trained otherwise, or shorter.
    """
    own = folder / training.name
    if not is_model(own):
        return False
    with Journal(own / "journal", about_run(training.options), Block) as journal:
        spent = training.budget.spent(journal.entries)
    if spent < 1:
        raise ValueError(f"{own}: expected a run of {training.budget}, got a shorter one")
    return True


def run(sweep: Sweep, folder: Path, rows: Journal, tasks: Tasks) -> int:
    """Do what the folder does not hold; the number of tasks that failed for good."""
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


def write_model(folder: Path, files: dict[str, bytes]) -> None:
    """Write a trained model's files, the card last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        write_beside(folder / name, [files[name]])


def read_model(folder: Path) -> dict[str, bytes]:
    """The files of a trained model."""
    return {name: (folder / name).read_bytes() for name in FILES}
