"""Length laws that follow the traffic: kept right as requests finish, from the past alone.

A deployed scheduler sees every request's end. The law of a category begins at that of the *train*
split (`laps_env.policies.base.traffic_model`); each of its requests that finishes moves the law's
offset and variance, and the tokens and rounds that make its speed, by 1 / ``memory`` of what it was
off. The weight of the prediction stays: where predictions move as a whole, a line fitted anew would
take the move for noise.

What is seen is the table alone: a request has finished when its slot is empty or has another's. Its
last round is not seen, so that its length is known to within half a draft. One that was aborted
counts as finished.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from laps_env.policies.base.rule_spec import Parameter
from laps_env.policies.base.traffic_model import Floats, TrafficModel
from laps_env.sim.observation import (
    ARRIVAL_NUMBER,
    CATEGORY,
    GENERATED_TOKENS,
    OCCUPIED,
    PREDICTED_TOKENS,
    ROUNDS,
    SERVER_COLUMNS,
)
from laps_env.utils.jit import inlined

MEMORY = Parameter("memory", 100.0, 20.0, 2000.0, "finished requests that count", log=True)

#: Most categories.
CATEGORIES = 16
#: Least variance of log length around its line.
_LEAST_VARIANCE = 1e-3

#: Law of a category: tokens per round; weight, offset and variance of log L. Then the means of
#: tokens and of rounds, whose ratio the first is.
_SPEED, _WEIGHT, _OFFSET, _VARIANCE, _TOKENS, _ROUNDS = range(6)
LAW = 6
#: What is remembered of the request in a slot.
_NUMBER, _GENERATED, _SERVED, _PREDICTED, _OF = range(5)
PER_SLOT = 5

_COLUMNS = len(SERVER_COLUMNS)
#: First law behind the columns of the server; before it is a mark that there are any.
_LAWS = _COLUMNS + 1
_SLOTS = _LAWS + CATEGORIES * LAW
#: Cells that a rule with running laws shares (`laps_env.policies.RuleSpec.shared`).
SHARED = _SLOTS - _COLUMNS


def first_laws(traffic: TrafficModel) -> Floats:
    """Laws to begin with, flat, with room for as many categories as there may be.

    Raises:
        ValueError: There are more categories than `CATEGORIES`.
    """
    if traffic.weight.size > CATEGORIES:
        raise ValueError(
            f"running laws: expected at most {CATEGORIES} categories, got {traffic.weight.size}"
        )
    laws = np.zeros((CATEGORIES, LAW))
    laws[: traffic.weight.size] = np.stack(
        [
            traffic.tokens_per_round,
            traffic.weight,
            traffic.offset,
            traffic.variance,
            traffic.tokens,
            traffic.tokens / traffic.tokens_per_round,
        ],
        axis=1,
    )
    return laws.ravel()


@inlined
def law_place(row: Any) -> Any:
    """Where the law of a request's category is among the server's cells, `LAW` of them."""
    return _LAWS + LAW * int(row[CATEGORY])


@inlined
def follow(queue: Any, server: Any, memory: float, first: Any) -> None:
    """Bring the laws up to date with a table.

    Args:
        queue: Table [N, F].
        server: Columns of the server and the cells behind them (written).
        memory: Finished requests that count.
        first: `first_laws`.
    """
    if server[_COLUMNS] == 0:
        server[_COLUMNS] = 1
        for j in range(CATEGORIES * LAW):
            server[_LAWS + j] = first[j]
    for k in range(queue.shape[0]):
        row = queue[k]
        known = server[_SLOTS + PER_SLOT * k : _SLOTS + PER_SLOT * (k + 1)]
        number = row[ARRIVAL_NUMBER] + 1 if row[OCCUPIED] == 1 else 0.0
        # a table that numbers anew gives lower numbers: that is nobody else
        if known[_NUMBER] > 0 and (number == 0 or number > known[_NUMBER]):
            place = _LAWS + LAW * int(known[_OF])
            finish(server[place : place + LAW], known, memory)
        if number > known[_NUMBER]:
            known[_PREDICTED], known[_OF] = row[PREDICTED_TOKENS], row[CATEGORY]
        known[_NUMBER] = number
        known[_GENERATED], known[_SERVED] = row[GENERATED_TOKENS], row[ROUNDS]


@inlined
def finish(law: Any, known: Any, memory: float) -> None:
    """Move a category's law by a request of it that has finished."""
    share = min(1.0 / memory, 1.0)
    # its last round was cut anywhere
    tokens, rounds = known[_GENERATED] + (1.0 + law[_SPEED]) / 2, known[_SERVED] + 1.0
    off = math.log(tokens) - law[_WEIGHT] * math.log(known[_PREDICTED]) - law[_OFFSET]
    law[_OFFSET] += share * off
    law[_VARIANCE] = max((1 - share) * (law[_VARIANCE] + share * off * off), _LEAST_VARIANCE)
    law[_TOKENS] += share * (tokens - law[_TOKENS])
    law[_ROUNDS] += share * (rounds - law[_ROUNDS])
    law[_SPEED] = law[_TOKENS] / law[_ROUNDS]
