"""Run a grid: workloads shared by all policies, in threads, resumable; and run a row again.

A *unit* is (scenario, load, seed), one workload; a *run* is one policy on it. `REFERENCE` and
`ORACLE` run on every workload, because ratios and gaps are measured against them, but get rows
only where they are asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path
from threading import Event
from typing import Annotated, Any, TypedDict

import msgspec
import numba
import numpy as np

from laps_env import __version__, policies
from laps_env.evaluation.episodes import evaluate_episode
from laps_env.evaluation.grid import ORACLE, REFERENCE, Grid
from laps_env.evaluation.recordings import Recordings
from laps_env.evaluation.rows import Metrics, statistics_of
from laps_env.sim.metrics import time_alone_ns
from laps_env.utils.journal import Journal
from laps_env.workloads import Workload
from laps_env.workloads.scenarios import Scenario, get_scenario

FORMAT = "laps-env-results"
VERSION = 1


def code_version(*packages: str) -> str:
    """The version, and a digest of every source of these packages and of their data."""
    digest = hashlib.sha256()
    for package in packages:
        root = Path(str(files(package)))
        data = (path for path in (root / "data").rglob("*") if path.is_file())
        for source in sorted({*root.rglob("*.py"), *data}):
            digest.update(source.relative_to(root).as_posix().encode())
            digest.update(source.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:16]}"


#: Results and journals name the code that made them.
CODE = code_version("laps_env", "laps_env.policies")


class FinishedRun(TypedDict):
    """A line of an evaluation's journal."""

    key: str
    metrics: Annotated[dict[str, float], msgspec.Meta(min_length=1)]


def run_key(definition: dict[str, Any]) -> str:
    """Digest of everything that defines a run; equal keys mean equal results."""
    text = json.dumps(definition, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_journal(path: Path, grid: Grid) -> Journal:
    """The journal of the evaluation of a grid.

    Raises:
        OSError, ValueError: as `laps_env.utils.journal.Journal`.
    """
    return Journal(path, {"job": "evaluation", "grid": asdict(grid)}, FinishedRun)


@dataclass(frozen=True)
class Setting:
    """A scenario of the grid made ready: recordings applied, policies fitted."""

    scenario: Scenario
    source: dict[str, Any]
    policies: dict[str, policies.Policy]


@dataclass(frozen=True)
class Unit:
    """One workload of the grid, and the key of each policy's run on it."""

    setting: Setting
    load: float | str
    seed: int
    keys: dict[str, str]


class Evaluation:
    """A grid on its way to results.

    Args:
        grid: what to run.
        journal: keeps finished runs, so that an interrupted evaluation can go on (`open_journal`).

    Raises:
        OSError, ValueError: unknown policies, recordings that cannot be used.
    """

    def __init__(self, grid: Grid, journal: Journal | None = None) -> None:
        self.grid = grid
        self._journal = journal
        entries: list[FinishedRun] = [] if journal is None else journal.entries
        self._finished: dict[str, Metrics] = {run["key"]: run["metrics"] for run in entries}
        self._digests = grid.recordings.digests()
        self._sources = {name: policies.make(name).digest for name in grid.policies_to_run}
        self._settings = [self._prepare(name) for name in grid.scenarios]
        self._units = [
            self._unit(setting, load, seed)
            for setting, load, seed in product(self._settings, grid.loads, grid.seeds)
        ]
        self._stop = Event()

    def _prepare(self, name: str) -> Setting:
        scenario, source = _recorded(self.grid.recordings, tuple(self._digests.values()), name)
        error = self.grid.predictor_error
        made = {
            policy: policies.make(policy, scenario, predictor_error=error)
            for policy in self.grid.policies_to_run
        }
        return Setting(scenario, source, made)

    def _unit(self, setting: Setting, load: float | str, seed: int) -> Unit:
        shared = {
            "code": CODE,
            "scenario": repr(setting.scenario),
            "recordings": self._digests,
            "load": load,
            "seed": seed,
            "num_requests": self.grid.num_requests,
            "split": self.grid.split,
            "slots": self.grid.slots,
            "predictor_error": self.grid.predictor_error,
        }
        shared_digest = run_key(shared)
        keys = {
            name: run_key(
                {
                    "workload": shared_digest,
                    "policy": name,
                    "source": self._sources[name],
                    "params": policy.params.tobytes().hex(),
                }
            )
            for name, policy in setting.policies.items()
        }
        return Unit(setting, load, seed, keys)

    @property
    def total_runs(self) -> int:
        """Policies x workloads."""
        return sum(len(unit.keys) for unit in self._units)

    @property
    def finished_runs(self) -> int:
        """How many of them the journal holds."""
        return sum(key in self._finished for unit in self._units for key in unit.keys.values())

    def run(
        self, jobs: int | None = None, on_progress: Callable[[int], None] = lambda runs: None
    ) -> None:
        """Do what the journal does not hold; what is finished stays there if this is interrupted.

        Args:
            jobs: threads, by default one per processor (the kernel releases the interpreter lock).
            on_progress: called after each unit with the number of runs it did.
        """
        with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
            pending = [pool.submit(self._run_unit, unit) for unit in self._units]
            try:
                for unit in as_completed(pending):
                    on_progress(unit.result())
            except BaseException:
                self._stop.set()
                for unit in pending:
                    unit.cancel()
                raise

    def _run_unit(self, unit: Unit) -> int:
        missing = [name for name, key in unit.keys.items() if key not in self._finished]
        if not missing:
            return 0
        grid, scenario = self.grid, unit.setting.scenario
        workload = scenario.workload(
            load=unit.load,
            num_requests=grid.num_requests,
            split=grid.split,
            seed=unit.seed,
            predictor_error=grid.predictor_error,
        )
        server = scenario.server
        alone = time_alone_ns(workload, server, server.reference_draft_length)
        for name in missing:
            if self._stop.is_set():
                break
            policy = unit.setting.policies[name]
            metrics = evaluate_episode(policy, workload, scenario, slots=grid.slots, alone_ns=alone)
            key = unit.keys[name]
            if self._journal is not None:
                self._journal.add({"key": key, "metrics": metrics})
            self._finished[key] = metrics
        return len(missing)

    def results(self) -> dict[str, Any]:
        """The content of results.json; every run must be finished (else KeyError)."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "code": CODE,
            "platform": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "numba": numba.__version__,
                "system": platform.system(),
                "machine": platform.machine(),
            },
            "reference": REFERENCE,
            "oracle": ORACLE,
            "grid": asdict(self.grid),
            "rows": [
                self._row(setting, load, policy)
                for setting, load in product(self._settings, self.grid.loads)
                for policy in self.grid.policies
            ],
        }

    def _row(self, setting: Setting, load: float | str, policy: str) -> dict[str, Any]:
        scenario = setting.scenario
        units = [u for u in self._units if u.setting is setting and u.load == load]
        runs = {
            name: [self._finished[unit.keys[name]] for unit in units]
            for name in (policy, REFERENCE, ORACLE)
        }
        return {
            "scenario": scenario.name,
            "load": load,
            "policy": policy,
            "policy_sha256": self._sources[policy],
            "parameters": setting.policies[policy].settings,
            **self.grid.conditions(),
            "predictor_error": scenario.error_in_force(self.grid.predictor_error),
            "batch_size": scenario.server.batch_size,
            "saturation_rps": scenario.saturation_rps,
            "source": setting.source,
            "recordings": asdict(self.grid.recordings),
            "sha256": self._digests,
            **statistics_of(runs[policy], runs[REFERENCE], runs[ORACLE]),
        }


@cache
def _recorded(
    recordings: Recordings, digests: tuple[str, ...], name: str
) -> tuple[Scenario, dict[str, Any]]:
    """A named scenario on recordings, once for all rows; the digests are part of the key alone."""
    return recordings.apply(get_scenario(name))


def rerun(row: dict[str, Any], episode: int) -> Metrics:
    """Run one workload of a results row again; ``mean_latency_s`` equals the row's bit for bit.

    Args:
        row: from the ``rows`` of a results file, written by the same code.
        episode: index into the row's ``seeds`` and ``episode_mean_latency_s``.

    Raises:
        ValueError: a recording or a rule's own file is not the one that the row was made from.
    """
    return evaluate_episode(*parts_of(row, episode), slots=row["slots"])


def parts_of(row: dict[str, Any], episode: int) -> tuple[policies.Policy, Workload, Scenario]:
    """Policy, workload and scenario of one workload of a results row; as `rerun`."""
    scenario = scenario_of(row)
    source = policies.make(row["policy"]).digest
    if source != row["policy_sha256"]:
        raise ValueError(f"{row['policy']}: expected sha256 {row['policy_sha256']}, got {source}")
    error = row["predictor_error"]
    try:
        policy = policies.make(row["policy"], scenario, predictor_error=error, **row["parameters"])
        workload = scenario.workload(
            load=row["load"],
            num_requests=row["num_requests"],
            split=row["split"],
            seed=row["seeds"][episode],
            predictor_error=error,
        )
    except (LookupError, TypeError) as reason:  # the row may be somebody else's
        raise ValueError(f"row: expected one that can be run again, got {reason}") from None
    return policy, workload, scenario


def scenario_of(row: dict[str, Any]) -> Scenario:
    """The scenario of a results row, on its recordings; as `rerun`."""
    recordings = Recordings(**row["recordings"])
    digests = recordings.digests()
    for name, digest in digests.items():
        if digest != row["sha256"].get(name):
            raise ValueError(
                f"{row['recordings'][name]}: expected sha256 {row['sha256'].get(name)}, "
                f"got {digest}"
            )
    scenario, _ = _recorded(recordings, tuple(digests.values()), row["scenario"])
    return replace(scenario, saturation_rps=row["saturation_rps"])
