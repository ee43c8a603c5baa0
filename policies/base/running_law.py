"""Length laws that follow the traffic: kept right as requests finish, from the past alone.

A deployed scheduler sees every request's end. The law of a category begins at that of the *train*
split (`laps_env.policies.base.traffic_model`); each of its requests that finishes moves the law's
offset and variance, and the tokens and rounds that make its speed, by 1 / ``memory`` of what it was
off. The weight of the prediction stays: where predictions move as a whole, a line fitted anew would
take the move for noise. So does the law of what is left when a prediction is refreshed.

What is seen is the table alone: a request has finished when its slot is empty or has another's. Its
last round is not seen, so that its length is known to within half a draft. One that was aborted
counts as finished.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from laps_env.policies.base.posterior import (
    LAW_SIZE,
    OFFSET,
    PREDICTION,
    SPEED,
    VARIANCE,
    length_posteriors,
)
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

#: Of a category: its law of lengths, its law of rests, and the means of tokens and of rounds, whose
#: ratio its tokens per round are.
_TOKENS, _ROUNDS = 2 * LAW_SIZE, 2 * LAW_SIZE + 1
LAWS = 2 * LAW_SIZE + 2
#: What is remembered of the request in a slot.
_NUMBER, _GENERATED, _SERVED, _PREDICTED, _OF = range(5)
PER_SLOT = 5

_COLUMNS = len(SERVER_COLUMNS)
#: First law behind the columns of the server; before it is a mark that there are any.
_LAWS = _COLUMNS + 1
_SLOTS = _LAWS + CATEGORIES * LAWS
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
    laws = np.zeros((CATEGORIES, LAWS))
    known = laws[: traffic.weight.size]
    known[:, :_TOKENS] = length_posteriors(traffic).reshape(-1, _TOKENS)
    known[:, _TOKENS] = traffic.tokens
    known[:, _ROUNDS] = traffic.tokens / traffic.tokens_per_round
    return laws.ravel()


@inlined
def laws_place(category: int) -> int:
    """Where the laws of a category begin among the server's cells: two, `LAW_SIZE` cells each."""
    return _LAWS + LAWS * category


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
        for j in range(CATEGORIES * LAWS):
            server[_LAWS + j] = first[j]
    for k in range(queue.shape[0]):
        row = queue[k]
        known = server[_SLOTS + PER_SLOT * k : _SLOTS + PER_SLOT * (k + 1)]
        number = row[ARRIVAL_NUMBER] + 1 if row[OCCUPIED] == 1 else 0.0
        # a table that numbers anew gives lower numbers: that is nobody else
        if known[_NUMBER] > 0 and (number == 0 or number > known[_NUMBER]):
            place = laws_place(int(known[_OF]))
            finish(server[place : place + LAWS], known, memory)
        if number > known[_NUMBER]:
            known[_PREDICTED], known[_OF] = row[PREDICTED_TOKENS], row[CATEGORY]
        known[_NUMBER] = number
        known[_GENERATED], known[_SERVED] = row[GENERATED_TOKENS], row[ROUNDS]


@inlined
def finish(laws: Any, known: Any, memory: float) -> None:
    """Move a category's law of lengths, and the speed of both, by a request that has finished."""
    share = min(1.0 / memory, 1.0)
    # its last round was cut anywhere
    tokens, rounds = known[_GENERATED] + (1.0 + laws[SPEED]) / 2, known[_SERVED] + 1.0
    off = math.log(tokens) - laws[PREDICTION] * math.log(known[_PREDICTED]) - laws[OFFSET]
    laws[OFFSET] += share * off
    laws[VARIANCE] = max((1 - share) * (laws[VARIANCE] + share * off * off), _LEAST_VARIANCE)
    laws[_TOKENS] += share * (tokens - laws[_TOKENS])
    laws[_ROUNDS] += share * (rounds - laws[_ROUNDS])
    laws[SPEED] = laws[LAW_SIZE + SPEED] = laws[_TOKENS] / laws[_ROUNDS]
