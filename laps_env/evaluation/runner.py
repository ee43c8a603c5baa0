"""Run a grid: workloads shared by all policies, in threads where the backend can, resumable.

A *unit* is (scenario, load, seed), one workload; a *run* is one policy on it. The reference and the
backend's oracle run on every workload, because ratios and gaps are measured against them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from threading import Event, Lock
from typing import Any, TypedDict

import numba
import numpy as np

from laps_env.evaluation.backend import Backend, Setting
from laps_env.evaluation.grid import Grid
from laps_env.evaluation.replay import Replay
from laps_env.evaluation.results import Results, Row
from laps_env.evaluation.rows import Metrics, RowMetrics, statistics_of, with_no_data
from laps_env.sim import SIMULATOR_VERSION
from laps_env.utils.journal import Journal
from laps_env.utils.splits import as_split
from laps_env.workloads.scenarios import get_scenario


class FinishedRun(TypedDict):
    """A line of an evaluation's journal."""

    key: str
    metrics: RowMetrics  # type: ignore[valid-type]


def run_key(definition: dict[str, Any]) -> str:
    """Digest of everything that defines a run; equal keys mean equal results."""
    text = json.dumps(definition, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_journal(path: Path, grid: Grid) -> Journal:
    """The journal of the evaluation of a grid.

    Raises:
        OSError, ValueError: A file that is no journal of this grid, or cannot be used.
    """
    asked = {
        **vars(grid),
        "scenarios": [get_scenario(scenario).name for scenario in grid.scenarios],
        "recordings": asdict(grid.recordings),
    }
    return Journal(path, {"job": "evaluation", "grid": asked}, FinishedRun)


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
        grid: Policies, scenarios and loads to run.
        journal: Finished runs, with which an interrupted evaluation goes on (`open_journal`).
        backend: Server to run on, by default the replay.

    Raises:
        OSError, ValueError: Unknown policies, or recordings that cannot be used.
    """

    def __init__(
        self, grid: Grid, journal: Journal | None = None, backend: Backend | None = None
    ) -> None:
        self.grid = grid
        self._backend = Replay() if backend is None else backend
        self._journal = journal
        entries: list[FinishedRun] = [] if journal is None else journal.entries
        self._finished: dict[str, Metrics] = {run["key"]: run["metrics"] for run in entries}
        self._recording_digests = grid.recordings.digests()
        self._settings = [self._backend.setting(grid, scenario) for scenario in grid.scenarios]
        self._units = [
            Unit(setting, load, seed, self._keys(setting, load, seed))
            for setting, load, seed in product(self._settings, grid.loads, grid.seeds)
        ]
        self._stop = Event()
        self._telling = Lock()

    def _keys(self, setting: Setting, load: float | str, seed: int) -> dict[str, str]:
        """Keys of a workload's runs: digests of all that decides their numbers."""
        shared = {
            "simulator": SIMULATOR_VERSION,
            "backend": self._backend.name,
            "scenario": setting.scenario_digest,
            "recordings": self._recording_digests,
            "load": load,
            "seed": seed,
            "num_requests": self.grid.num_requests,
            "split": self.grid.split,
            "slots": self.grid.slots,
            "predictor_error": setting.predictor_error,
        }
        return {
            name: run_key(
                {
                    **shared,
                    "policy": setting.policy_digests[name],
                    "params": policy.params.tobytes().hex(),
                    "draft_length": policy.draft_length,
                }
            )
            for name, policy in setting.policies.items()
        }

    @property
    def total_runs(self) -> int:
        """Policies x workloads."""
        return sum(len(unit.keys) for unit in self._units)

    @property
    def finished_runs(self) -> int:
        """How many of them the journal holds."""
        return sum(key in self._finished for unit in self._units for key in unit.keys.values())

    def run(
        self, jobs: int | None = None, on_progress: Callable[[int], object] = lambda runs: None
    ) -> None:
        """Do what the journal does not hold; what is finished stays there if this is interrupted.

        Args:
            jobs: Threads, by default one per processor; a live server takes one.
            on_progress: Told of each finished run with 1, in one thread at a time.
        """
        if jobs == 1 or self._backend.one_at_a_time:
            for unit in self._units:
                self._run_unit(unit, on_progress)
            return
        with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
            pending = [pool.submit(self._run_unit, unit, on_progress) for unit in self._units]
            try:
                for done in as_completed(pending):
                    done.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _run_unit(self, unit: Unit, on_progress: Callable[[int], object]) -> None:
        missing = [name for name, key in unit.keys.items() if key not in self._finished]
        if not missing or self._stop.is_set():
            return
        played = self._backend.play(self.grid, unit.setting, unit.load, unit.seed, missing)
        for name, numbers in played:
            key, metrics = unit.keys[name], with_no_data(numbers)
            if self._journal is not None:
                self._journal.add({"key": key, "metrics": metrics})
            self._finished[key] = metrics
            with self._telling:
                on_progress(1)
            if self._stop.is_set():
                break

    def results(self) -> Results:
        """The results; every run must be finished (else KeyError)."""
        return Results(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            platform={
                "python": platform.python_version(),
                "numpy": np.__version__,
                "numba": numba.__version__,
                "system": platform.system(),
                "machine": platform.machine(),
            },
            rows=[
                self._row(setting, load, policy)
                for setting, load in product(self._settings, self.grid.loads)
                for policy in self.grid.listed
            ],
            texts=self._backend.texts,
            definitions={
                setting.scenario.name: setting.scenario.definition
                for setting in self._settings
                if setting.scenario.definition is not None
            },
        )

    def _row(self, setting: Setting, load: float | str, policy: str) -> Row:
        grid, scenario, oracle = self.grid, setting.scenario, self._backend.oracle
        runs, reference = (self._metrics(setting, load, name) for name in (policy, grid.reference))
        return Row(
            scenario=scenario.name,
            load=load,
            policy=policy,
            reference=grid.reference,
            oracle=oracle,
            backend=self._backend.name,
            simulator=SIMULATOR_VERSION,
            scenario_digest=setting.scenario_digest,
            policy_digest=setting.policy_digests[policy],
            parameters=setting.policies[policy].settings,
            episodes=grid.episodes,
            num_requests=grid.num_requests,
            split=as_split(grid.split),
            seeds=list(grid.seeds),
            slots=grid.slots,
            predictor_error=setting.predictor_error,
            batch_size=scenario.server.batch_size,
            saturation_rps=scenario.saturation(grid.split),
            source=setting.source,
            filled_share=setting.filled_share,
            recordings=grid.recordings,
            recording_digests=self._recording_digests,
            **statistics_of(
                runs, reference, None if oracle is None else self._metrics(setting, load, oracle)
            ),
        )

    def _metrics(self, setting: Setting, load: float | str, policy: str) -> list[Metrics]:
        """Metrics of a policy on each workload of a scenario and load."""
        return [
            self._finished[unit.keys[policy]]
            for unit in self._units
            if unit.setting is setting and unit.load == load
        ]
