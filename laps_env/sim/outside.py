"""Steps of a server that does the work of a round outside the kernel.

`open_sequential`, `open_drafts` or `open_scores` picks; where it says that the round starts,
`open_for_work` makes room and says how much to draft. The caller then runs the round, notes what
was drafted and accepted in ``max_draft`` and ``accepted_length`` at the requests' positions (and a
text's length when it ends), and `close_at_cost` or `close_as_measured` accounts for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.sim.admission import pick_by_priority
from laps_env.sim.loops import ask, begin_step, choose, finish_step
from laps_env.sim.round import (
    close_round,
    do_work,
    draft_length_of,
    finish_at_cost,
    open_round,
)
from laps_env.sim.state import BatchedState, episode_of
from laps_env.utils.jit import jit


@jit
def open_sequential(c: Any, state: BatchedState, action: int, scale: float) -> bool:
    """Server 0 takes one action; whether its round starts now."""
    began = begin_step(state, 0)
    e = episode_of(state, 0)
    starts = choose(c, state, 0, e, action)
    if not starts:
        finish_step(c, state, 0, e, began, False, scale)
    return starts


@jit
def open_drafts(c: Any, state: BatchedState, action: int, draft_length: int, scale: float) -> bool:
    """The same of an action that says how much its request drafts."""
    ask(c, state, 0, action, draft_length)
    return open_sequential(c, state, action, scale)


@jit
def open_scores(c: Any, state: BatchedState, priorities: npt.NDArray[np.float64]) -> bool:
    """Server 0 picks a whole round by priorities [slots], which then starts."""
    begin_step(state, 0)
    pick_by_priority(c, state.servers[0], episode_of(state, 0), priorities)
    return True


@jit
def open_for_work(c: Any, state: BatchedState) -> None:
    """Make room for the round of server 0; ``drafting`` of its slots is what each is to draft."""
    server = state.servers[0]
    e = episode_of(state, 0)
    open_round(c, server, e)
    for k in range(server.picked):
        slot = e.slots[e.batch[k]]
        slot.drafting = draft_length_of(c, server, e, slot)


@jit
def close_at_cost(c: Any, state: BatchedState, scale: float) -> None:
    """The round takes what the cost model says."""
    e = episode_of(state, 0)
    server = state.servers[0]
    began = server.now
    finish_at_cost(c, server, e)
    finish_step(c, state, 0, e, began, True, scale)


@jit
def close_as_measured(
    c: Any, state: BatchedState, scale: float, duration: int, draft_ns: int, verify_ns: int
) -> None:
    """The round took ``duration`` nanoseconds, its draft steps and its verification so many."""
    e = episode_of(state, 0)
    server = state.servers[0]
    began = server.now
    work = do_work(c, server, e)
    close_round(server, e, work, duration, draft_ns / max(work.steps, 1), verify_ns)
    finish_step(c, state, 0, e, began, True, scale)
