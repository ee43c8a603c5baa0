"""Gittins index under length laws that follow the traffic.

As `laps_env.policies.gittins`, but the law of a category is that of the requests that have finished
lately (`laps_env.policies.base.running_law`), so the index is tabulated for a grid of deviations.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from laps_env.policies.base.remaining import shrunk_tokens_per_round
from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.policies.base.running_law import (
    CATEGORIES,
    LAW,
    MEMORY,
    PER_SLOT,
    SHARED,
    first_laws,
    follow,
    law_place,
)
from laps_env.policies.base.traffic_model import Floats, TrafficModel
from laps_env.policies.bayes_srpt import posterior_log_length
from laps_env.policies.category_shrunk import WEIGHT
from laps_env.policies.gittins import POINTS, index_table, scaled_index
from laps_env.sim.observation import GENERATED_TOKENS
from laps_env.utils.jit import inlined, prepare, rule

#: Deviations of log length that the index is tabulated for.
_LEAST, _MOST, TABLES = 0.03, 3.0, 24
_STEP = math.log(_MOST / _LEAST) / (TABLES - 1)

_FITTED = 2
#: First table, behind the laws.
_FIRST_TABLE = CATEGORIES * LAW


@inlined
def place_of(variance: float) -> float:
    """Place of a variance among the tables."""
    return min(max(math.log(variance / _LEAST**2) / (2 * _STEP), 0.0), TABLES - 1.001)


@inlined
def running_index(generated: float, median: float, variance: float, tables: Any) -> float:
    """The index in tokens, between the tables of the two nearest deviations."""
    place = place_of(variance)
    left = int(place)
    low = scaled_index(generated / median, tables[POINTS * left : POINTS * (left + 1)])
    high = scaled_index(generated / median, tables[POINTS * (left + 1) : POINTS * (left + 2)])
    return (low + (high - low) * (place - left)) * median


@inlined
def between_tables(variance: float, tables: Any, found: Any) -> None:
    """Write the table of a variance into ``found``."""
    place = place_of(variance)
    left = int(place)
    for j in range(POINTS):
        low, high = tables[POINTS * left + j], tables[POINTS * (left + 1) + j]
        found[j] = low + (high - low) * (place - left)


@prepare
def learn(queue: Any, server: Any, params: Any) -> None:
    """Follow the traffic."""
    follow(queue, server, params[0], params[_FITTED:])


@rule
def gittins_running(row: Any, server: Any, params: Any, memory: Any) -> float:
    """The index in rounds."""
    first = law_place(row)
    law = server[first : first + LAW]
    median = math.exp(posterior_log_length(row, law))
    tables = params[_FITTED + _FIRST_TABLE :]
    tokens = running_index(row[GENERATED_TOKENS], median, law[3], tables)
    return tokens / shrunk_tokens_per_round(row, law[0], params[1])


def laws_and_tables(traffic: TrafficModel) -> Floats:
    """Laws to begin with, then the index of every deviation, flat."""
    scales = _LEAST * np.exp(_STEP * np.arange(TABLES))
    return np.concatenate([first_laws(traffic), *map(index_table, scales)])


SPEC = RuleSpec(
    "gittins_running",
    "Gittins index under laws fitted as requests finish",
    gittins_running,
    (MEMORY, WEIGHT),
    prepare=learn,
    shared=SHARED,
    shared_per_slot=PER_SLOT,
    keeps=True,
    fitted=laws_and_tables,
    by_category=True,
)
