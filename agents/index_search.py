"""Search for the weights of a learned index without derivatives: CMA-ES.

A candidate is scored by what it is for: its latency relative to LAPS-SD on simulated workloads,
whole episodes in the compiled kernel. All candidates of a generation are scored on the same
workloads and every generation on fresh ones, so that none is fitted to some.

Source of the search: Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count

import cma
import numpy as np

from laps_env.agents.options import IndexOptions
from laps_env.evaluation.objective import Objective, with_weights
from laps_env.policies import RuleSpec
from laps_env.policies.base.traffic_model import Floats
from laps_env.policies.networks import index, joint

#: First step, in units of a weight.
STEP = 0.1


@dataclass(frozen=True)
class Searched:
    """What is searched.

    Attributes:
        kind: Network of `laps_env.policies._registry.NETWORKS`.
        start: All of its weights, where the search begins.
        free: Those that it changes, of all in a row.
    """

    kind: str
    start: Floats
    free: slice

    def whole(self, values: Sequence[float] | Floats) -> Floats:
        """All weights, with these in place of the free ones."""
        weights = self.start.ravel().copy()
        weights[self.free] = values
        return weights.reshape(self.start.shape)


def searched_for(options: IndexOptions) -> Searched:
    """What a run searches: an order, drafts, or both.

    What tells scenarios apart has little use where there is one: the rows of an order that do are
    not searched then.
    """
    if options.decides == "order":
        rows = len(index.START) if len(options.scenario) > 1 else 1
        return Searched("index", index.START, slice(0, rows * index.START.shape[1]))
    begin = 0 if options.decides == "both" else len(joint.ORDER_FEATURES)
    return Searched("joint", joint.START, slice(begin, joint.WEIGHTS))


def search(
    objective: Objective,
    rule: RuleSpec,
    score: Callable[[Sequence[float]], float],
    *,
    searched: Searched,
    seed: int,
    threads: int,
    known: Sequence[Sequence[float]] = (),
) -> Iterator[tuple[list[float], Floats]]:
    """Generation by generation, the candidates' scores and the centre of the distribution.

    Args:
        objective: Workloads that the candidates are scored on.
        rule: Rule whose weights are searched, those before others that stay as they are.
        score: Number to be minimised, from the log ratios of mean and p99 latency.
        searched: Weights that the search begins at, and which of them it changes.
        seed: Seed of the search and of its workloads.
        threads: Threads that score; the weights do not depend on how many.
        known: Scores of the first generations from an earlier run, which are not computed again:
            with them the search goes on exactly where that one was.

    Yields:
        The scores, and all weights, in the shape of those that the search begins at.
    """
    rng = np.random.default_rng(seed)
    options = {"randn": lambda *shape: rng.standard_normal(shape), "seed": np.nan, "verbose": -9}
    strategy = cma.CMAEvolutionStrategy(searched.start.ravel()[searched.free], STEP, options)
    made = objective.make(rule)
    with ThreadPoolExecutor(threads) as pool:
        for generation in count():
            candidates = strategy.ask()
            if generation < len(known):
                scores = list(known[generation])
            else:
                tasks = objective.tasks("train", seed + generation, pool)
                weighted = [with_weights(made, searched.whole(c).ravel()) for c in candidates]
                ratios = pool.map(partial(objective.log_ratios, tasks=tasks), weighted)
                scores = [score(ratio.tolist()) for ratio in ratios]
            strategy.tell(candidates, scores)
            yield scores, searched.whole(strategy.result.xfavorite)
