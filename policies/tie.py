"""TIE: the expected length plus a share of what the longest answers may take.

Source: "TIE" (tail inflated expectation, arXiv 2604.00499, ICML 2026): a request is ranked by
E[X] + beta CVaR_0.9[X], where log X is Student's t with 3.5 degrees of freedom around the
prediction and X is cut at the server's limit; CVaR_0.9 is the mean of the longest tenth. The more
requests wait for a place in the batch, the greater beta: 0.1 waiting / batch size, in 0.1 .. 0.5.
The rank is multiplied by 0.9 every 30 s of waiting, and a started request is never left.

Assumed: the law's median is the traffic model's line, its scale the one with as many requests near
the line as the law that fits best has (the paper trains a model for both); the limit is the
greatest length of the *train* split; the factor 0.9 is the whole rank's, not beta's alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from laps_env.policies.base.length_law import (
    TABLE_SIZE,
    limited_mean,
    limited_mean_table,
    median_distance,
)
from laps_env.policies.base.posterior import LAW_SIZE, posterior_log_rest
from laps_env.policies.base.rule_spec import Parameter, RuleSpec
from laps_env.policies.base.traffic_model import Floats, TrafficModel
from laps_env.policies.gittins import with_laws
from laps_env.sim.observation import (
    BACKLOG,
    BATCH_SIZE,
    CATEGORY,
    OCCUPIED,
    ROUNDS,
    SERVER_COLUMNS,
    WAITING_S,
)
from laps_env.utils.jit import prepare, rule

_HEAVINESS = 1 / 3.5
_LONGEST_SHARE = 0.1
_MOST_BETA = 0.5
_DECAY = 0.9

_LIMIT, _FITTED = 2, 3
_RISK = LAW_SIZE + TABLE_SIZE
_SIZE = _RISK + TABLE_SIZE

#: Shared cell: beta in force.
_BETA = len(SERVER_COLUMNS)


@prepare
def weigh_tail(queue: Any, server: Any, params: Any) -> None:
    """Leave the beta of this moment to the rule."""
    waiting = server[BACKLOG]
    for i in range(queue.shape[0]):
        if queue[i, OCCUPIED] == 1 and queue[i, ROUNDS] == 0:
            waiting += 1
    beta = params[0] * waiting / server[BATCH_SIZE]
    server[_BETA] = min(max(beta, params[0]), _MOST_BETA)


@rule
def tie(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Inflated expected tokens; memory keeps the mean and the longest tenth's.

    They stay: a request that waits for its first round has no refreshes.
    """
    if row[ROUNDS] > 0:
        return 0.0
    if memory[0] == 0:
        first = _FITTED + _SIZE * int(row[CATEGORY])
        law = params[first : first + _SIZE]
        log_median, log_limit = posterior_log_rest(row, law), params[_LIMIT]
        memory[0] = limited_mean(log_median, log_limit, law[LAW_SIZE:_RISK])
        memory[1] = limited_mean(log_median, log_limit, law[_RISK:])
    return (memory[0] + server[_BETA] * memory[1]) * _DECAY ** (row[WAITING_S] / params[1])


def risk_laws(traffic: TrafficModel) -> Floats:
    """Log of the limit; then each category's law and its tables of both means, flat."""
    unit = median_distance(1.0, _HEAVINESS)
    scales = [
        median_distance(scale, heaviness) / unit
        for scale, heaviness in zip(traffic.scale, traffic.heaviness, strict=True)
    ]
    tables = [
        np.concatenate(
            [limited_mean_table(scale, _HEAVINESS, share) for share in (1.0, _LONGEST_SHARE)]
        )
        for scale in scales
    ]
    return np.concatenate([[math.log(traffic.longest_tokens)], with_laws(traffic, tables).ravel()])


SPEC = RuleSpec(
    "tie",
    "expected length and its tail risk, no pre-emption",
    tie,
    (
        Parameter(
            "beta", 0.1, 0.0, 0.5, "weight of the longest tenth per full batch waiting", "published"
        ),
        Parameter(
            "patience_s",
            30.0,
            1.0,
            1000.0,
            "wait that takes a tenth off the rank",
            "published",
            True,
        ),
    ),
    cells=2,
    prepare=weigh_tail,
    shared=1,
    fitted=risk_laws,
    by_category=True,
)
