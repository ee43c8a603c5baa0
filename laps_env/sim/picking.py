"""Who is in the next round."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.sim.observation import PICKED
from laps_env.sim.state import Episode
from laps_env.utils.jit import inlined


@inlined
def fits(c: Any, server: Any, slot: Any) -> bool:
    """Whether an unpicked request can still join the round: batch and pool."""
    return (
        slot.picked == 0
        and server.picked < c.batch_size
        and server.reserved + slot.context + server.lookahead <= c.pool_tokens
    )


@inlined
def pick(server: Any, e: Episode, index: int) -> None:
    """Put the request of a slot into the next round."""
    slot = e.slots[index]
    slot.picked = 1
    e.queue[index, PICKED] = 1
    e.batch[server.picked] = index
    server.picked += 1
    server.reserved += slot.context + server.lookahead


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
    roomy = server.wanted + server.active * server.lookahead <= c.pool_tokens
    limit = min(c.batch_size, server.active) if roomy else server.active
    for k in range(rank(e, server.active, priority, limit)):
        if fits(c, server, e.slots[e.ranked[k]]):
            pick(server, e, e.ranked[k])
