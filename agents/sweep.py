"""Training and evaluation grids as Ray tasks, on this machine or on a cluster.

A sweep is a TOML file: runs to train, each with several seeds, and workloads to evaluate all of
them on. A task that fails or whose machine is lost is tried again; what is finished is in the
sweep's folder and is not done again:

FOLDER/NAME-SEED/    the trained model and its journal
FOLDER/rows.journal  a line per model, scenario, load and predictor error
"""

from __future__ import annotations

import hashlib
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Any

from laps_env.agents.hyperparameters import as_option, hyperparameters
from laps_env.agents.runs import ALGORITHMS, Budget, Options, train
from laps_env.evaluation.grid import Grid
from laps_env.evaluation.runner import Evaluation
from laps_env.policies.networks.model_file import CARD, WEIGHTS
from laps_env.utils.checks import check_count
from laps_env.utils.files import write_beside

#: What a trained model leaves in its folder; the card last, because it makes the folder a model.
FILES = (WEIGHTS, "journal", CARD)


@dataclass(frozen=True)
class Training:
    """A run of a sweep.

    Attributes:
        name: Name of the run's folder.
        options: Options of what is trained.
        budget: Budget of the run.
    """

    name: str
    options: Options
    budget: Budget

    def __call__(self) -> dict[str, bytes]:
        """Train; the files of the model."""
        with tempfile.TemporaryDirectory() as folder:
            train(self.options, Path(folder), self.budget, lambda share, text: None)
            return {name: (Path(folder) / name).read_bytes() for name in FILES}


@dataclass(frozen=True)
class Trial:
    """A policy evaluated on one scenario at one load.

    Attributes:
        name: Name of the policy or of the training.
        grid: Options of `Grid`, policies apart.
    """

    name: str
    grid: dict[str, Any]

    def __call__(self, files: dict[str, bytes] | None = None) -> dict[str, Any]:
        """The results row of the policy, or of the model with these files."""
        if files is None:
            return self._row(self.name)
        with tempfile.TemporaryDirectory() as folder:
            for name in (WEIGHTS, CARD):
                (Path(folder) / name).write_bytes(files[name])
            return {**self._row(folder), "policy": self.name, "model": digest(files)}

    def _row(self, policy: str) -> dict[str, Any]:
        evaluation = Evaluation(Grid(policies=(policy,), **self.grid))
        evaluation.run(jobs=1)
        row: dict[str, Any]
        (row,) = evaluation.results()["rows"]
        return row

    @property
    def key(self) -> dict[str, Any]:
        """What tells its row from the others of a sweep."""
        return {"name": self.name, **self.grid}


@dataclass(frozen=True)
class Evaluations:
    """A table [[evaluate]].

    Attributes:
        grids: One scenario, load and predictor error each.
        models: Patterns of names of trainings; those that match are evaluated.
        policies: Policies that stand beside the models.
    """

    grids: list[dict[str, Any]]
    models: tuple[str, ...]
    policies: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """What a file asks for.

    Attributes:
        trainings: Trainings, every run with every seed.
        evaluations: Evaluations of the models.
    """

    trainings: list[Training]
    evaluations: list[Evaluations]

    def trials(self, training: Training) -> list[Trial]:
        """Trials of one trained model."""
        return [
            Trial(training.name, grid)
            for asked in self.evaluations
            for grid in asked.grids
            if any(fnmatch(training.name, pattern) for pattern in asked.models)
        ]

    def rivals(self) -> list[Trial]:
        """Trials of the policies that stand beside the models."""
        return [
            Trial(policy, grid)
            for asked in self.evaluations
            for grid in asked.grids
            for policy in asked.policies
        ]


def read_sweep(path: Path) -> Sweep:
    """A sweep from its file.

    ::

        [[train]]
        name = "index"
        algorithm = "index"             # or "ppo"
        seeds = [0, 1, 2, 3, 4]
        blocks = 20                     # or minutes
        scenario = ["mixed-serial-135m"]    # and any other option of the algorithm
        # each = ["mixed-serial-135m"]      # instead: a run for each scenario

        [[evaluate]]
        models = ["index-*"]            # all by default
        policies = ["laps_sd_tuned"]    # that stand beside them, by default none
        scenarios = ["mixed-serial-135m"]
        loads = [0.7, 0.9]
        predictor_errors = [0.3, 0.8]   # by default each scenario's own
        episodes = 50                   # and any other option of laps_env.evaluation.grid.Grid

    Raises:
        ValueError: Damaged or unknown content; the message names the file, what was expected and
            what came.
        OSError: It cannot be read.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        unknown = set(document) - {"train", "evaluate"}
        if unknown or not document.get("train"):
            raise ValueError(f"expected [[train]] and [[evaluate]], got {sorted(document)}")
        trainings = [t for entry in document["train"] for t in _trainings(dict(entry))]
        names = [training.name for training in trainings]
        if len(set(names)) < len(names):
            raise ValueError(f"expected different names, got {names}")
        return Sweep(trainings, [_evaluations(dict(e)) for e in document.get("evaluate", [])])
    except (tomllib.TOMLDecodeError, TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from None


def _trainings(entry: dict[str, Any]) -> Iterator[Training]:
    each = entry.pop("each", [])
    if each:
        for scenario in each:
            own = {**entry, "name": f"{entry['name']}-{scenario}", "scenario": [scenario]}
            yield from _trainings(own)
        return
    for field in ("name", "algorithm", "seeds"):
        if field not in entry:
            raise ValueError(f"[[train]]: expected {field}, got {sorted(entry)}")
    name, algorithm, seeds = entry.pop("name"), entry.pop("algorithm"), entry.pop("seeds")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm: expected one of {list(ALGORITHMS)}, got {algorithm!r}")
    kind = ALGORITHMS[algorithm]
    budget = Budget(entry.pop("minutes", None), entry.pop("blocks", None))
    given = {key: as_option(value) for key, value in entry.items()}
    if isinstance(given.get("scenario"), str):
        raise ValueError(f"scenario: expected a list of names, got {given['scenario']!r}")
    defaults = hyperparameters(algorithm, given.get("scenario", kind().scenario))
    for seed in seeds:
        check_count("seeds", seed, least=0)
        yield Training(f"{name}-{seed}", kind(**(defaults | given), seed=seed), budget)


def _evaluations(entry: dict[str, Any]) -> Evaluations:
    models, policies = entry.pop("models", ["*"]), entry.pop("policies", [])
    cells = product(
        entry.pop("scenarios"), entry.pop("predictor_errors", ["None"]), entry.pop("loads")
    )
    grids = []
    for scenario, error, load in cells:
        grid = {"scenarios": [scenario], "loads": [load], "predictor_error": as_option(error)}
        grids.append(grid | entry)
        Grid(policies=("fcfs", *policies), **grids[-1])  # refuses what is out of range
    return Evaluations(grids, tuple(models), tuple(policies))


class Tasks:
    """Ray tasks under way: started, tried again, collected as they finish.

    Args:
        attempts: Attempts of a task that fails or is lost.
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


def write_model(folder: Path, files: dict[str, bytes]) -> None:
    """Write a trained model's files, the card last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        write_beside(folder / name, [files[name]])


def digest(files: dict[str, bytes]) -> str:
    """SHA-256 of a trained model's weights."""
    return hashlib.sha256(files[WEIGHTS]).hexdigest()


def read_model(folder: Path) -> dict[str, bytes]:
    """The files of a trained model."""
    return {name: (folder / name).read_bytes() for name in FILES}
