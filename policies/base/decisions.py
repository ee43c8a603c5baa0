"""Actions from observations: what `laps_env.policies.Policy.predict` does in compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.policies.base.rule_spec import Floats
from laps_env.sim.observation import (
    ARRIVAL_NUMBER,
    GENERATED_TOKENS,
    OCCUPIED,
    QUEUE_COLUMNS,
    SELECTABLE,
    SERVER_COLUMNS,
)
from laps_env.sim.state import FREE
from laps_env.utils.jit import jit

Observation = dict[str, npt.NDArray[np.float32]]


def observed_arrays(
    observation: Observation,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Arrays ``queue`` [(E,) N, F] and ``server`` [(E,) G] as the compiled code takes them.

    Raises:
        ValueError: One is missing, or the shapes are others.
    """
    try:
        queue, server = (
            np.ascontiguousarray(observation[name], np.float32) for name in ("queue", "server")
        )
    except (KeyError, IndexError, TypeError):
        raise ValueError(
            f"observation: expected a dict with queue and server, got {type(observation).__name__}"
        ) from None
    columns, entries = len(QUEUE_COLUMNS), len(SERVER_COLUMNS)
    if queue.ndim not in (2, 3) or (
        (queue.shape[-1], *server.shape) != (columns, *queue.shape[:-2], entries)
    ):
        raise ValueError(
            f"observation: expected queue [(E,) N, {columns}] and server [(E,) {entries}], "
            f"got {queue.shape} and {server.shape}"
        )
    return queue, server


@jit
def choose_actions(
    queue: npt.NDArray[np.float32],
    server: npt.NDArray[np.float32],
    server_cells: npt.NDArray[np.float32],
    memory: Floats,
    rule: Any,
    prepare: Any,
    params: Floats,
    remaining: Floats,
    offset: npt.NDArray[np.int64],
    raised: npt.NDArray[np.int8],
    actions: npt.NDArray[np.int64],
) -> int:
    """Choose the selectable slot of lowest priority, ties by arrival; else start the round.

    Returns the row of all E x N at which the rule fails (`run_rule`), or `FREE`.

    The arguments are plain arrays because a named tuple of them costs more than the choice itself
    each time it crosses into compiled code.
    """
    columns, slots = server.shape[1], queue.shape[1]
    for i in range(queue.shape[0]):
        for j in range(columns):
            server_cells[j] = server[i, j]
        kept = memory[i, slots:].reshape(-1)
        shared = min(kept.size, server_cells.size - columns)
        for j in range(shared):
            server_cells[columns + j] = kept[j]
        prepare(queue[i], server_cells, params)
        for j in range(shared):
            kept[j] = server_cells[columns + j]
        if raised[0] != 0:
            return i * queue.shape[1]
        best, best_priority = queue.shape[1], np.inf
        for k in range(queue.shape[1]):
            row = queue[i, k]
            if row[OCCUPIED] == 0:
                continue
            cells = memory[i, k]
            if cells[0] != row[ARRIVAL_NUMBER] + 1:
                cells[:] = 0.0
                cells[0] = row[ARRIVAL_NUMBER] + 1
            if remaining.size > 0:
                position = offset[np.int64(row[ARRIVAL_NUMBER])] + np.int64(row[GENERATED_TOKENS])
                cells[1] = remaining[position]
            priority = rule(row, server_cells, params, cells[1:])
            if raised[0] != 0 or not np.isfinite(priority):
                return i * queue.shape[1] + k
            earlier = (
                best == queue.shape[1]
                or priority < best_priority
                or (
                    priority == best_priority
                    and row[ARRIVAL_NUMBER] < queue[i, best, ARRIVAL_NUMBER]
                )
            )
            if row[SELECTABLE] == 1 and earlier:
                best, best_priority = k, priority
        actions[i] = best
    return FREE
