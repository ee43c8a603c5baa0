"""Who is in the system and who joins the next round: arrivals, slots, picks, limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.sim.observation import (
    fits,
    has_room_for_all,
    note_arrivals,
    show_admission,
    show_pick,
    show_release,
)
from laps_env.sim.state import FREE, NEVER, Episode
from laps_env.utils.jit import inlined


@inlined
def admit(server: Any, e: Episode) -> None:
    """Requests that have arrived enter the system; the earliest take the free slots."""
    if server.next_ns <= server.now:
        while server.next_ns <= server.now:
            server.arrived += 1
            server.next_ns = arrival_ns(server, e, server.arrived)
        note_arrivals(server, e)
    while server.admitted < server.arrived and server.active < e.slots.shape[0]:
        occupy(server, e, server.admitted)
        server.admitted += 1


@inlined
def arrival_ns(server: Any, e: Episode, number: int) -> int:
    """When a request arrives; `NEVER` behind the last."""
    return e.requests[number].arrival_ns if number < server.requests else NEVER


@inlined
def occupy(server: Any, e: Episode, number: int) -> None:
    """Request ``number`` takes the lowest free slot."""
    index = 0
    while e.slots[index].request != FREE:
        index += 1
    request = e.requests[number]
    slot, hot = e.slots[index], e.hot[index]
    slot.request = number
    slot.generated = slot.rounds = slot.attained_ns = 0
    slot.drafted = slot.accepted = slot.refused = 0
    slot.position = request.offset
    slot.resident = slot.swapped = slot.ran = slot.preemptions = 0
    hot.arrival_ns = hot.served_at = request.arrival_ns
    hot.served_round = server.rounds
    hot.context = request.prompt_tokens
    hot.picked = 0
    e.active[server.active] = index
    server.active += 1
    server.wanted += hot.context
    show_admission(e, index, number)


@inlined
def release(server: Any, e: Episode, index: int) -> None:
    """A finished request leaves its slot and its cache."""
    slot = e.slots[index]
    server.held -= e.hot[index].context
    server.wanted -= e.hot[index].context
    server.finished += 1
    slot.request = FREE
    slot.ran = 0
    show_release(e, index)
    place = 0
    while e.active[place] != index:
        place += 1
    server.active -= 1
    for k in range(place, server.active):
        e.active[k] = e.active[k + 1]


@inlined
def advance_to_work(server: Any, e: Episode) -> None:
    """Admit; where nothing is in the system, time jumps to the next arrival."""
    admit(server, e)
    idle = server.active == 0 and server.arrived < server.requests
    if idle and server.now < server.cut_ns:
        server.now = min(server.next_ns, server.cut_ns)
        admit(server, e)


@inlined
def check_limits(server: Any) -> None:
    """An unfinished episode is cut at its time limit, or when its queue has grown too long."""
    too_late = server.now >= server.cut_ns
    too_long = server.arrived - server.finished > server.queue_limit
    if server.finished < server.requests and (too_late or too_long):
        server.truncated = 1


@inlined
def pick(server: Any, e: Episode, index: int) -> None:
    """Put the request of a slot into the next round."""
    hot = e.hot[index]
    hot.picked = 1
    show_pick(e, index)
    e.batch[server.picked] = index
    server.picked += 1
    server.reserved += hot.context + server.lookahead


@inlined
def rank(e: Episode, active: int, priority: npt.NDArray[np.float64], limit: int) -> int:
    """Write the ``limit`` best slots to ``e.ranked``, lowest priority first; returns how many.

    The active slots come in order of arrival and insertion is stable, so ties keep that order.
    """
    count = 0
    for k in range(active):
        index = e.active[k]
        key = priority[index]
        if count == limit and not key < priority[e.ranked[count - 1]]:
            continue
        place = count if count < limit else limit - 1
        while place > 0 and key < priority[e.ranked[place - 1]]:
            e.ranked[place] = e.ranked[place - 1]
            place -= 1
        e.ranked[place] = index
        count = min(count + 1, limit)
    return count


@inlined
def pick_by_priority(c: Any, server: Any, e: Episode, priority: npt.NDArray[np.float64]) -> None:
    """Fill the round with the lowest priorities (by slot) that fit; ties: the earlier arrival."""
    limit = min(c.batch_size, server.active) if has_room_for_all(c, server) else server.active
    for k in range(rank(e, server.active, priority, limit)):
        if fits(c, server, e.hot[e.ranked[k]]):
            pick(server, e, e.ranked[k])
