"""Search for a learned index (`laps_env.policies.networks.index`) without derivatives: CMA-ES.

A candidate is scored by what it is for: its latency relative to LAPS-SD on simulated workloads,
whole episodes in the compiled kernel. All candidates of a generation are scored on the same
workloads and every generation on fresh ones, so that none is fitted to some.

Source of the search: Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

import cma
import numpy as np

from laps_env.evaluation.objective import Objective, with_weights
from laps_env.policies import RuleSpec
from laps_env.policies.base.traffic_model import Floats
from laps_env.policies.networks.features import REQUEST_FEATURES

#: Where the search begins: the Gittins index, everywhere.
START = np.zeros((3, len(REQUEST_FEATURES)))
START[0, [feature.name for feature in REQUEST_FEATURES].index("gittins")] = 1
#: Its first step, in units of a weight.
STEP = 0.1


def search(
    objective: Objective,
    rule: RuleSpec,
    score: Callable[[Sequence[float]], float],
    *,
    rows: int,
    seed: int,
    threads: int,
    known: Sequence[Sequence[float]] = (),
) -> Iterator[tuple[list[float], Floats]]:
    """Generation by generation, the candidates' scores and the centre of the distribution.

    Args:
        objective: Workloads that the candidates are scored on.
        rule: Rule of `laps_env.policies.networks.index.make_spec`; its weights are replaced.
        score: Number to be minimised, from the log ratios of mean and p99 latency.
        rows: Rows of the weights that are searched, the others stay 0: what tells scenarios apart
            has little use where there is one.
        seed: Seed of the search and of its workloads.
        threads: Threads that score; the weights do not depend on how many.
        known: Scores of the first generations from an earlier run, which are not computed again:
            with them the search goes on exactly where that one was.

    Yields:
        The scores, and float64 weights, shaped as `START`.
    """
    rng = np.random.default_rng(seed)
    options = {"randn": lambda *shape: rng.standard_normal(shape), "seed": np.nan, "verbose": -9}
    strategy = cma.CMAEvolutionStrategy(START[:rows].ravel(), STEP, options)
    made = objective.make(rule)
    with ThreadPoolExecutor(threads) as pool:
        for generation in count():
            candidates = strategy.ask()
            if generation < len(known):
                scores = list(known[generation])
            else:
                tasks = objective.tasks("train", seed + generation, pool)
                weighted = [with_weights(made, complete(c).ravel()) for c in candidates]
                ratios = pool.map(partial(objective.log_ratios, tasks=tasks), weighted)
                scores = [score(ratio.tolist()) for ratio in ratios]
            strategy.tell(candidates, scores)
            yield scores, complete(strategy.result.xfavorite)


def complete(searched: Floats) -> Floats:
    """The weights, shaped as `START`, from its first rows."""
    weights = np.zeros(START.size)
    weights[: searched.size] = searched
    return weights.reshape(START.shape)
