"""Who is in the system: arrivals, slots, backlog, completion, limits."""

from __future__ import annotations

from typing import Any

from laps_env.sim.observation import (
    ARRIVAL_NUMBER,
    CATEGORY,
    OCCUPIED,
    PREDICTED_TOKENS,
    PROMPT_TOKENS,
)
from laps_env.sim.state import FREE, Episode
from laps_env.utils.jit import inlined


@inlined
def admit(server: Any, e: Episode) -> None:
    """Requests that have arrived enter the system; the earliest take the free slots."""
    while server.arrived < server.requests and e.requests[server.arrived].arrival_ns <= server.now:
        server.arrived += 1
    while server.admitted < server.arrived and server.active < e.slots.shape[0]:
        occupy(server, e, server.admitted)
        server.admitted += 1


@inlined
def occupy(server: Any, e: Episode, number: int) -> None:
    """Request ``number`` takes the lowest free slot."""
    index = 0
    while e.slots[index].request != FREE:
        index += 1
    request = e.requests[number]
    slot = e.slots[index]
    slot.request = number
    slot.generated = slot.rounds = slot.drafted = slot.accepted = slot.attained_ns = 0
    slot.arrival_ns = slot.served_at = request.arrival_ns
    slot.served_round = server.rounds
    slot.context = request.prompt_tokens
    slot.resident = slot.swapped = slot.picked = slot.ran = 0
    e.active[server.active] = index
    server.active += 1
    server.wanted += slot.context
    row = e.queue[index]
    row[OCCUPIED] = 1
    row[ARRIVAL_NUMBER] = number
    row[PROMPT_TOKENS] = request.prompt_tokens
    row[PREDICTED_TOKENS] = request.predicted_tokens
    row[CATEGORY] = request.category


@inlined
def release(server: Any, e: Episode, index: int) -> None:
    """A finished request leaves its slot and its cache."""
    slot = e.slots[index]
    server.held -= slot.context
    server.wanted -= slot.context
    server.finished += 1
    slot.request = FREE
    e.queue[index] = 0
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
    if idle and server.now < server.time_limit_ns:
        server.now = min(e.requests[server.arrived].arrival_ns, server.time_limit_ns)
        admit(server, e)


@inlined
def check_limits(server: Any) -> None:
    """An unfinished episode is cut at its time limit, or when its queue has grown too long."""
    too_late = server.now >= server.time_limit_ns
    too_long = server.arrived - server.finished > server.queue_limit
    if server.finished < server.requests and (too_late or too_long):
        server.truncated = 1
