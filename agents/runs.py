"""Training runs in folders: each ends by its budget, survives a kill, and overwrites no other.

- ``journal``: what the folder is a run of, then a line per finished block;
- ``card.json``, ``model.safetensors``: the best rule so far on the *validation* split
  (`laps_env.policies.networks.model_file`);
- ``checkpoint*``: what a killed run of PPO goes on from;
- ``log/``: of stable-baselines3, for TensorBoard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch

from laps_env.agents.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from laps_env.agents.index_search import search, searched_for
from laps_env.agents.options import Budget, IndexOptions, Options, PPOOptions
from laps_env.agents.ppo import PPOTrainer
from laps_env.evaluation.objective import SLOTS, Objective, with_weights
from laps_env.policies import RuleSpec
from laps_env.policies._registry import network_rule
from laps_env.policies.base.traffic_model import Floats
from laps_env.policies.networks.layers import flatten
from laps_env.policies.networks.model_file import save_model
from laps_env.sim import SIMULATOR_VERSION
from laps_env.utils.journal import Journal

#: What rules are chosen on: seed of the *validation* split, workloads in all (but at least one for
#: each scenario, error and load), requests.
VALIDATION_SEED, VALIDATION_WORKLOADS, VALIDATION_REQUESTS = 1000, 24, 1000
#: Generations in a block of the index search.
GENERATIONS = 5

Entry = dict[str, Any]


class Block(TypedDict):
    """Least that the journal says of a block."""

    seconds: float
    validation: list[float]


def train(options: Options, folder: Path, budget: Budget, at: Callable[[float, str], None]) -> None:
    """Run to the end of the budget, from where the folder's run is.

    Args:
        options: Options of the run; they choose the algorithm.
        folder: Folder, new or of the same run, which a longer budget lets go on.
        budget: Budget; it counts what earlier processes did of the run.
        at: Callback told the share of the budget that is spent, and how it goes.

    Raises:
        ValueError: The folder is of another run.
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(folder / "journal", about_run(options), Block) as journal:
        run, entries = Run(options, folder, journal), journal.entries
        if isinstance(options, IndexOptions):
            blocks = run.index_blocks()
        else:
            blocks = run.ppo_blocks(lambda text: at(budget.spent(entries), text))
        with closing(blocks):
            while budget.spent(entries) < 1:
                began = time.perf_counter()
                entry = next(blocks)
                journal.add({**entry, "seconds": time.perf_counter() - began})
                at(budget.spent(entries), run.progress())


def about_run(options: Options) -> dict[str, Any]:
    """What a run's folder is a run of."""
    return {"algorithm": type(options).__name__, "simulator": SIMULATOR_VERSION, **asdict(options)}


class Run:
    """A run in its folder, with its open journal."""

    def __init__(self, options: Options, folder: Path, journal: Journal) -> None:
        self.options, self.folder, self.journal = options, folder, journal

    def progress(self) -> str:
        """The last block in words."""
        entries = self.journal.entries
        minutes = sum(entry["seconds"] for entry in entries) / 60
        text = f"block {len(entries)}, {minutes:.1f} min"
        mean, p99 = np.exp(entries[-1]["validation"])
        return f"{text}: mean latency x{mean:.3f}, p99 x{p99:.3f} of LAPS-SD's on validation"

    def index_blocks(self) -> Generator[Entry]:
        """Blocks of the search for an index, from where the journal ends."""
        options = self.options
        assert isinstance(options, IndexOptions)
        searched = searched_for(options)
        rule = network_rule(searched.kind, "candidate", {"weights": searched.start})
        objective = Objective(
            options.sources(),
            options.loads,
            options.num_requests,
            repeats=options.repeats,
            cells=options.cells,
            confidences=rule.drafts,
        )
        look = self._look(rule)
        known = [scores for entry in self.journal.entries for scores in entry["scores"]]
        generations = search(
            objective,
            rule,
            options.score,
            searched=searched,
            seed=options.seed * 2**20,
            threads=torch.get_num_threads(),
            known=known,
        )
        for _ in islice(generations, len(known)):
            pass

        def block(scores: list[list[float]], weights: Floats) -> Entry:
            validation = look(weights.ravel())
            self._keep_if_best(searched.kind, {"weights": weights}, validation)
            return {"scores": scores, "validation": validation}

        if not self.journal.entries:
            yield block([], searched.start)
        while True:
            found = list(islice(generations, GENERATIONS))
            yield block([scores for scores, _ in found], found[-1][1])

    def ppo_blocks(self, report: Callable[[str], None]) -> Generator[Entry]:
        """Blocks of PPO, from the last checkpoint."""
        options = self.options
        assert isinstance(options, PPOOptions)
        with closing(PPOTrainer(options, self.folder)) as trainer:
            kind, shapes = trainer.options.network, trainer.policy.scorer.shapes
            look = self._look(network_rule(kind, "candidate", trainer.policy.numpy_arrays()))
            if has_checkpoint(self.folder):
                state = load_checkpoint(self.folder, trainer.policy)
                trainer.block, trainer.model.num_timesteps = state["block"], state["steps"]
            done = len(self.journal.entries)
            if trainer.block - done not in (0, 1):
                raise ValueError(
                    f"{self.folder}: expected the checkpoint of block {done}, got that of "
                    f"{trainer.block or 'none'}"
                )
            if trainer.block > done:  # killed between checkpoint and journal
                yield state["entry"]
            while True:
                trainer.run_block(report)
                arrays = trainer.policy.numpy_arrays()
                validation = look(flatten(arrays, shapes))
                self._keep_if_best(kind, arrays, validation)
                steps = trainer.model.num_timesteps
                entry = {"steps": steps, "validation": validation}
                state = {"block": trainer.block, "steps": steps, "entry": entry}
                save_checkpoint(self.folder, trainer.policy, trainer.block, state)
                yield entry

    def _look(self, rule: RuleSpec) -> Callable[[Floats], list[float]]:
        """A function from weights to log ratios of mean and p99 latency on *validation*."""
        objective = Objective(
            self.options.sources(),
            self.options.loads,
            VALIDATION_REQUESTS,
            repeats=max(1, VALIDATION_WORKLOADS // self.options.combinations),
            slots=rule.slots or SLOTS,
            confidences=rule.drafts,
        )
        pool = ThreadPoolExecutor(torch.get_num_threads())
        tasks = objective.tasks("validation", VALIDATION_SEED, pool)
        made = objective.make(rule)

        def look(weights: Floats) -> list[float]:
            weighted = with_weights(made, weights)
            ratios = pool.map(lambda task: objective.log_ratios(weighted, [task]), tasks)
            return np.mean(list(ratios), axis=0).tolist()

        return look

    def _keep_if_best(self, kind: str, arrays: dict[str, Floats], validation: list[float]) -> None:
        score = self.options.score
        earlier = [score(entry["validation"]) for entry in self.journal.entries]
        if score(validation) < min(earlier, default=np.inf):
            about = {
                "training": about_run(self.options),
                "blocks": len(earlier) + 1,
                "log_ratios_to_reference_on_validation": validation,
            }
            save_model(self.folder, kind, arrays, about)
