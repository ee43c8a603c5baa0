"""Who loses its key-value cache when the pool needs the room."""

from __future__ import annotations

from typing import Any

from laps_env.sim.observation import CACHED
from laps_env.sim.state import Episode
from laps_env.utils.jit import inlined


@inlined
def choose_victim(c: Any, server: Any, e: Episode) -> int:
    """The resident request outside the round that loses its cache (`ServerModel.victim`)."""
    victim, worst = -1, -1
    for k in range(server.active):
        index = e.active[k]
        slot = e.slots[index]
        if slot.resident == 1 and slot.picked == 0:
            if c.victim == 0:
                key = server.now - slot.served_at
            elif c.victim == 1:
                key = slot.request
            else:
                key = slot.context
            if key >= worst:  # the later arrival loses a tie
                victim, worst = index, key
    return victim


@inlined
def make_room(c: Any, server: Any, e: Episode) -> None:
    """Evict until the round fits the pool."""
    held_outside = server.held
    for k in range(server.picked):
        slot = e.slots[e.batch[k]]
        held_outside -= slot.context * slot.resident
    server.offloads = server.offloaded = 0
    while server.reserved + held_outside > c.pool_tokens:
        index = choose_victim(c, server, e)
        slot = e.slots[index]
        slot.resident = 0
        e.queue[index, CACHED] = 0
        server.held -= slot.context
        held_outside -= slot.context
        if c.swap == 1:
            slot.swapped = 1
            server.offloads += 1
            server.offloaded += slot.context
