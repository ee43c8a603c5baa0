"""Training and evaluation grids as Ray tasks, on this machine or on a cluster.

A sweep is a TOML file: runs to train, each with several seeds, and workloads to evaluate all of
them on. A task that fails or whose machine is lost is tried again; what is finished is in the
sweep's folder and is not done again:

FOLDER/NAME-SEED/    the trained model and its journal
FOLDER/rows.journal  a line per model, scenario, load and predictor error
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import msgspec

from laps_env.agents.options import ALGORITHMS, Budget, Options, as_option, usual_options
from laps_env.agents.runs import train
from laps_env.evaluation.grid import Grid
from laps_env.evaluation.runner import Evaluation
from laps_env.policies.networks.model_file import CARD, WEIGHTS
from laps_env.utils.checks import check_count, check_one_of
from laps_env.utils.documents import convert

#: What a trained model leaves in its folder; the card last, because it makes the folder a model.
FILES = (WEIGHTS, "journal", CARD)

#: Options of a grid that a table [[evaluate]] may have beside its own members.
GRID_OPTIONS = ("episodes", "num_requests", "first_seed", "split", "slots", "reference")

#: Names of folders, which a sweep's own folder must hold.
_FOLDER = re.compile(r"\w[\w.+-]*")


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
        row: dict[str, Any] = msgspec.to_builtins(evaluation.results().rows[0])
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
        scenario = ["mixed-serial-135m"]  # and any other option of the algorithm; or, for a run per
        # each = ["mixed-serial-135m"]       # scenario, this

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
        document = tomllib.loads(path.read_bytes().decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected TOML, got {error}") from None
    try:
        tables = convert(document, _Tables)
        trainings = [t for entry in tables.train for t in _trainings(entry)]
        names = [training.name for training in trainings]
        if len(set(names)) < len(names):
            raise ValueError(f"expected different names, got {names}")
        return Sweep(trainings, [_evaluations(entry) for entry in tables.evaluate])
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None


class _Tables(msgspec.Struct, forbid_unknown_fields=True):
    """A sweep's file; what a table holds beside its own members are options."""

    train: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    evaluate: list[dict[str, Any]] = []


class _Train(msgspec.Struct):
    """Members of a table [[train]] that are no options of the algorithm."""

    name: str
    algorithm: str
    seeds: Annotated[list[int], msgspec.Meta(min_length=1)]
    minutes: float | None = None
    blocks: int | None = None
    each: list[str] = []


class _Evaluate(msgspec.Struct):
    """Members of a table [[evaluate]] that are no options of each grid."""

    scenarios: list[str]
    loads: list[Any]
    predictor_errors: tuple[Any, ...] = ("None",)
    models: tuple[str, ...] = ("*",)
    policies: tuple[str, ...] = ()


def _options(entry: dict[str, Any], told: msgspec.Struct) -> dict[str, Any]:
    """Members of a table that are not the table's own."""
    return {k: as_option(v) for k, v in entry.items() if k not in told.__struct_fields__}


def _trainings(entry: dict[str, Any]) -> Iterator[Training]:
    told = convert(entry, _Train, "train")
    if not _FOLDER.fullmatch(told.name):
        raise ValueError(f"name: expected letters, digits, '-', '_' and '.', got {told.name!r}")
    check_one_of("algorithm", told.algorithm, ALGORITHMS)
    kind, budget = ALGORITHMS[told.algorithm], Budget(told.minutes, told.blocks)
    given = _options(entry, told)
    runs = [(f"{told.name}-{scenario}", {"scenario": (scenario,)}) for scenario in told.each]
    for (name, scenario), seed in product(runs or [(told.name, {})], told.seeds):
        check_count("seeds", seed, least=0)
        options = usual_options(kind, **given | scenario | {"seed": seed})
        yield Training(f"{name}-{seed}", options, budget)


def _evaluations(entry: dict[str, Any]) -> Evaluations:
    told = convert(entry, _Evaluate, "evaluate")
    options = _options(entry, told)
    for name in options:
        check_one_of("options of evaluate", name, GRID_OPTIONS)
    grids = []
    for scenario, error, load in product(told.scenarios, told.predictor_errors, told.loads):
        grid = {"scenarios": [scenario], "loads": [load], "predictor_error": as_option(error)}
        grids.append(grid | options)
        Grid(policies=("fcfs", *told.policies), **grids[-1])  # refuses what is out of range
    return Evaluations(grids, told.models, told.policies)


def digest(files: dict[str, bytes]) -> str:
    """SHA-256 of a trained model's weights."""
    return hashlib.sha256(files[WEIGHTS]).hexdigest()
