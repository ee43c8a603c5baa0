"""Observations written by hand, and the order in which a policy serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from laps_env.policies import Policy
from laps_env.sim.observation import (
    ARRIVAL_NUMBER,
    OCCUPIED,
    PREDICTED_TOKENS,
    QUEUE_COLUMNS,
    SELECTABLE,
    SERVER_COLUMNS,
)

Row = Mapping[int, float]
Observation = dict[str, np.ndarray[Any, Any]]


def observe(rows: Sequence[Row], server: Row | None = None) -> Observation:
    """An observation of these requests, in order of arrival unless they say otherwise."""
    queue = np.zeros((len(rows), len(QUEUE_COLUMNS)), np.float32)
    for i, row in enumerate(rows):
        given = {OCCUPIED: 1.0, SELECTABLE: 1.0, ARRIVAL_NUMBER: i, PREDICTED_TOKENS: 1.0, **row}
        queue[i, list(given)] = list(given.values())
    view = np.zeros(len(SERVER_COLUMNS), np.float32)
    for column, value in (server or {}).items():
        view[column] = value
    return {"queue": queue, "server": view}


def order_of(policy: Policy, observation: Observation, state: Any = None) -> list[int]:
    """The slots from the first to be served to the last."""
    queue = observation["queue"].copy()
    order: list[int] = []
    while queue[:, SELECTABLE].any():
        action, state = policy.predict({**observation, "queue": queue}, state)
        order.append(int(action))
        queue[action, SELECTABLE] = 0
    action, _ = policy.predict({**observation, "queue": queue}, state)
    assert action == len(queue)  # nobody left to pick: start the round
    return order
