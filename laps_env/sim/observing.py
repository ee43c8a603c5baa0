"""What is seen: the columns of the observation, kept current by what changes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.sim.observation import (
    ACCEPTED,
    ATTAINED_S,
    BACKLOG,
    BATCH_SIZE,
    CACHED,
    DRAFT_LENGTH,
    DRAFT_STEP_S,
    DRAFTED,
    FREE_CACHE_TOKENS,
    GENERATED_TOKENS,
    IDLE_ROUNDS,
    IDLE_S,
    LAST_ACCEPTED,
    LAST_DRAFTED,
    LOAD_ESTIMATE,
    MAX_COUNT,
    PICKED,
    RAN,
    ROUNDS,
    SELECTABLE,
    SINCE_ARRIVAL_S,
    VERIFY_S,
    WAITING_S,
    WINDOW_ACCEPTANCE,
    WINDOW_SPREAD,
)
from laps_env.sim.picking import fits
from laps_env.sim.state import Episode
from laps_env.utils.jit import inlined

#: Arrivals in the load estimate.
LOAD_WINDOW = 32


@inlined
def refresh_times(server: Any, e: Episode) -> None:
    """Bring the columns that change by waiting up to date."""
    for k in range(server.active):
        index = e.active[k]
        slot = e.slots[index]
        row = e.queue[index]
        row[WAITING_S] = (server.now - slot.arrival_ns) * 1e-9
        row[IDLE_S] = (server.now - slot.served_at) * 1e-9
        row[IDLE_ROUNDS] = server.rounds - slot.served_round


@inlined
def show_choices(c: Any, server: Any, e: Episode, mask: npt.NDArray[np.int8]) -> int:
    """Write the action mask and its column; returns how many requests may be picked."""
    mask[:] = 0
    choices = 0
    for k in range(server.active):
        index = e.active[k]
        selectable = 1 if fits(c, server, e.slots[index]) else 0
        mask[index] = selectable
        e.queue[index, SELECTABLE] = selectable
        choices += selectable
    mask[-1] = 1 if server.picked > 0 else 0
    return choices


@inlined
def show_server(c: Any, server: Any, e: Episode, view: npt.NDArray[np.float32]) -> None:
    """Write the observation's server part."""
    view[BATCH_SIZE] = c.batch_size
    view[DRAFT_LENGTH] = server.last_draft_length
    view[DRAFT_STEP_S] = server.draft_step_ns * 1e-9
    view[VERIFY_S] = server.verify_ns * 1e-9
    free = c.pool_tokens - server.held - server.reserved
    for k in range(server.picked):
        slot = e.slots[e.batch[k]]
        free += slot.context * slot.resident
    view[FREE_CACHE_TOKENS] = min(max(free, 0), MAX_COUNT)
    view[BACKLOG] = server.arrived - server.admitted
    view[LOAD_ESTIMATE] = 0
    view[SINCE_ARRIVAL_S] = 0
    if server.arrived > 0:
        latest = server.arrived - 1
        view[SINCE_ARRIVAL_S] = (server.now - e.requests[latest].arrival_ns) * 1e-9
        gaps = min(LOAD_WINDOW, latest)
        span = e.requests[latest].arrival_ns - e.requests[latest - gaps].arrival_ns
        if span > 0:
            rate = gaps / (span * 1e-9)
            view[LOAD_ESTIMATE] = min(rate / server.saturation_rps, MAX_COUNT)


@inlined
def show_progress(e: Episode, index: int, drafted: int, accepted: int) -> None:
    """Write the columns that a round changes."""
    slot = e.slots[index]
    row = e.queue[index]
    row[GENERATED_TOKENS] = slot.generated
    row[ROUNDS] = slot.rounds
    row[DRAFTED] = slot.drafted
    row[ACCEPTED] = slot.accepted
    row[LAST_DRAFTED] = drafted
    row[LAST_ACCEPTED] = accepted
    row[ATTAINED_S] = slot.attained_ns * 1e-9
    row[PICKED] = 0
    row[RAN] = 1
    row[CACHED] = 1
    row[WINDOW_ACCEPTANCE], row[WINDOW_SPREAD] = windowed_acceptance(
        e.window[index], min(slot.rounds, e.window.shape[1])
    )


@inlined
def windowed_acceptance(window: npt.NDArray[Any], rounds: int) -> tuple[float, float]:
    """Accepted / drafted over the window, and the standard deviation of the per-round rates.

    Rounds that drafted nothing say nothing; with none left both are 0.
    """
    drafted, accepted, count, total = 0, 0, 0, 0.0
    for k in range(rounds):
        drafted += window[k].drafted
        accepted += window[k].accepted
        count += 1 if window[k].drafted > 0 else 0
        total += window[k].rate
    if count == 0:
        return 0.0, 0.0
    square = 0.0
    for k in range(rounds):
        if window[k].drafted > 0:
            square += (window[k].rate - total / count) ** 2
    return accepted / drafted, np.sqrt(square / count)
