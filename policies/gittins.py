"""Gittins index: the best ratio of expected work to the chance of finishing.

Source: Gittins, "Bandit processes and dynamic allocation indices", JRSS B 41 (1979); for scheduling
with a known law of sizes it minimises the mean latency of a single server. The law here is the
posterior of `laps_env.policies.bayes_srpt`, conditioned on what has been generated: the smallest
over D of E[min(rest, D)] / P(rest <= D), in rounds through the shrunk tokens per round.

For a log-normal law the index at age a is exp(mu) * G(a / exp(mu)) with G depending on the standard
deviation alone, so G is tabulated once per category and the round loop only interpolates.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from laps_env.policies.base.length_law import length_survival
from laps_env.policies.base.remaining import shrunk_tokens_per_round
from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.policies.base.traffic_model import Floats, TrafficModel
from laps_env.policies.bayes_srpt import LAW_SIZE, length_posteriors, posterior_log_length
from laps_env.policies.category_shrunk import WEIGHT
from laps_env.sim.observation import CATEGORY, GENERATED_TOKENS
from laps_env.utils.jit import inlined, rule

_FITTED = 1
#: G(x) / (1 + x) is tabulated at x / (1 + x) = 0, 1/128, ..., 127/128.
POINTS = 128
#: Fitted constants of a category: its law (`laps_env.policies.bayes_srpt`), then its index table.
INDEX_SIZE = LAW_SIZE + POINTS


@inlined
def index_tokens(generated: float, median: float, law: Any) -> float:
    """The index in tokens; ``law`` is a category's constants (`index_tables`)."""
    return scaled_index(generated / median, law[LAW_SIZE:]) * median


@inlined
def scaled_index(age: float, table: Any) -> float:
    """The index at this age, both in medians (`index_table`)."""
    place = min(age / (1.0 + age) * POINTS, POINTS - 1.0)
    left = int(place) if 0.0 <= place < POINTS - 1.0 else POINTS - 2
    scaled = table[left] + (table[left + 1] - table[left]) * (place - left)
    return scaled * (1.0 + age)


@rule
def gittins(row: Any, server: Any, params: Any, memory: Any) -> float:
    """The index in rounds; memory keeps exp(mu), the posterior's median length."""
    first = _FITTED + INDEX_SIZE * int(row[CATEGORY])
    law = params[first : first + INDEX_SIZE]
    if memory[0] == 0:
        memory[0] = math.exp(posterior_log_length(row, law))
    tokens = index_tokens(row[GENERATED_TOKENS], memory[0], law)
    return tokens / shrunk_tokens_per_round(row, law[0], params[0])


def index_table(scale: float, heaviness: float = 0.0) -> Floats:
    """G(x) / (1 + x) on the grid, for a law with median 1 (`laps_env.policies.base.length_law`).

    The scale of a log-normal law is the deviation of log L.

    E[min(rest, D)] is the integral of the survival function; D runs over a grid that is geometric
    between a thousandth and a hundred times the age's own scale (a log-t law is so dense at 0 that
    the smallest D of all would be best there).
    """
    grid = np.arange(POINTS) / POINTS
    ages = grid / (1 - grid)
    table = np.empty(POINTS)
    for i, age in enumerate(ages):
        wide = max(scale, 0.02) * (age + 1.0)
        spans = np.concatenate([[0.0], np.geomspace(1e-3 * wide, 1e2 * wide, 300)])
        survival = length_survival(age + spans, scale, heaviness)
        if survival[0] < 1e-250:  # beyond any length that occurs: keep the last index
            table[i] = table[i - 1]
            continue
        survival = survival / survival[0]
        steps = np.diff(spans) * (survival[1:] + survival[:-1]) / 2
        finished = 1.0 - survival[1:]
        reachable = finished > 1e-12
        table[i] = (np.cumsum(steps)[reachable] / finished[reachable]).min() / (1 + age)
    return table


def index_tables(traffic: TrafficModel) -> Floats:
    """Length law and index table of each category, flat."""
    return with_laws(traffic, [index_table(math.sqrt(v)) for v in traffic.variance])


def with_laws(traffic: TrafficModel, tables: list[Floats]) -> Floats:
    """Length law of each category, then its table, flat."""
    laws = length_posteriors(traffic).reshape(-1, LAW_SIZE)
    return np.concatenate([laws, tables], axis=1).ravel()


SPEC = RuleSpec(
    "gittins",
    "Gittins index under the length law",
    gittins,
    (WEIGHT,),
    fitted=index_tables,
    by_category=True,
)
