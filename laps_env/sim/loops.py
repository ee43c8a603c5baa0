"""The compiled loops behind the environments and the evaluation.

All of them take a step in the same three parts: `begin_step`, the round or a pick, `finish_step`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from laps_env.sim.adaptive_steps import start_adaptive
from laps_env.sim.admission import admit, advance_to_work, check_limits, pick, pick_by_priority
from laps_env.sim.costs import Work, draft_step_ns, verification_ns
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH
from laps_env.sim.observation import copy_table, refresh_times, show_choices, show_server
from laps_env.sim.round import run_round
from laps_env.sim.state import FREE, BatchedState, Episode, episode_of
from laps_env.utils.jit import inlined, jit


@jit
def start_episode(c: Any, state: BatchedState, i: int) -> None:
    """Empty server i, with its requests, limits and saturation set, moves to its first decision."""
    server = state.servers[i]
    e = episode_of(state, i)
    server.now = server.arrived = server.admitted = server.finished = server.active = 0
    server.picked = server.ran = server.wanted = server.held = server.reserved = server.rounds = 0
    server.contended = server.busy_ns = server.integral_ns = server.truncated = server.order = 0
    server.hits = server.trials = 0.0
    server.settled = 0
    server.settled_cost = server.cost = 0.0
    nominal = max(c.draft_length, 0)
    server.draft_length = server.last_draft_length = nominal
    server.undrafted = 0
    server.draft_step_ns = draft_step_ns(c, Work(0, 0, 0, 1, 1, 0, 0, 0, 0))
    server.verify_ns = verification_ns(c, Work(nominal + 1, 0, 0, 0, 0, 0, 0, 0, 0))
    for k in range(e.slots.shape[0]):
        e.slots[k].request = FREE
    e.queue[:] = 0
    e.gaps[:] = 0
    start_adaptive(e.adaptive)
    state.terminated[i] = state.truncated[i] = False
    clear_step(state, i)
    server.load = 0.0
    server.next_ns = e.requests[0].arrival_ns
    server.now = server.next_ns  # no limit is tested before the first round
    server.cut_ns = server.now + server.time_limit_ns
    admit(server, e)
    show_all(c, state, i, e)


@inlined
def clear_step(state: BatchedState, i: int) -> None:
    """Report of a step in which nothing has happened."""
    state.reward[i] = state.dt[i] = 0.0
    state.invalid[i] = state.ran_round[i] = False


@inlined
def show_all(c: Any, state: BatchedState, i: int, e: Episode) -> int:
    """Bring server i's whole observation up to date; returns how many requests may be picked."""
    server = state.servers[i]
    refresh_times(server, e)
    show_server(c, server, e, state.server_obs[i])
    return show_choices(c, server, e, state.mask[i])


@inlined
def begin_step(state: BatchedState, i: int) -> int:
    """Clear what a step reports; returns the time at which it begins."""
    state.servers[i].integral_ns = 0
    clear_step(state, i)
    return state.servers[i].now


@inlined
def choose(c: Any, state: BatchedState, i: int, e: Episode, action: int) -> bool:
    """Take one action of the sequential interface; returns whether the round starts."""
    server = state.servers[i]
    starts = e.slots.shape[0]
    state.invalid[i] = state.mask[i, action] == 0
    if state.invalid[i]:
        if server.picked == 0:
            pick(server, e, e.active[0])
    elif action != starts:
        pick(server, e, action)
        show_server(c, server, e, state.server_obs[i])
        return show_choices(c, server, e, state.mask[i]) == 0
    return True


@inlined
def next_decision(server: Any, e: Episode) -> None:
    """After a round: move to where somebody waits, or to the episode's end."""
    advance_to_work(server, e)
    check_limits(server)


@inlined
def finish_step(
    c: Any, state: BatchedState, i: int, e: Episode, began: int, ran: bool, scale: float
) -> None:
    """Move on where a round ``ran``, and report reward and duration of the step."""
    server = state.servers[i]
    if ran:
        next_decision(server, e)
        show_all(c, state, i, e)
        state.ran_round[i] = True
        state.terminated[i] = server.finished == server.requests
        state.truncated[i] = server.truncated == 1
    state.reward[i] = -(server.integral_ns * 1e-9) / scale
    state.dt[i] = (server.now - began) * 1e-9


@inlined
def take_action(c: Any, state: BatchedState, i: int, action: int, scale: float) -> None:
    """Server i takes one action of the sequential interface: a pick, or the start of the round."""
    began = begin_step(state, i)
    e = episode_of(state, i)
    starts = choose(c, state, i, e, action)
    if starts:
        run_round(c, state.servers[i], e)
    finish_step(c, state, i, e, began, starts, scale)


@jit
def step_sequential(
    c: Any,
    scale: float,
    state: BatchedState,
    actions: npt.NDArray[np.int64],
    skip: npt.NDArray[np.bool_],
    shown: npt.NDArray[np.float32],
) -> None:
    """Every server not skipped takes one action; ``shown`` [E, N, F], or [0], gets the tables."""
    for i in range(actions.shape[0]):
        if not skip[i]:
            take_action(c, state, i, actions[i], scale)
        if shown.shape[0] > 0:
            copy_table(state.servers[i], episode_of(state, i), shown[i])


@inlined
def ask(c: Any, state: BatchedState, i: int, action: int, draft_length: int) -> None:
    """Note how much the request of an action is to draft, before the action is taken.

    What is served in place of a masked action drafts what the server would.
    """
    starts, slots = state.slots.shape[1], state.slots[i]
    if state.mask[i, action] == 0:
        if state.servers[i].picked == 0:
            slots[state.active[i, 0]].asked = c.most_drafted
    elif action != starts:
        slots[action].asked = draft_length


@jit
def step_drafts(
    c: Any,
    scale: float,
    state: BatchedState,
    actions: npt.NDArray[np.int64],
    skip: npt.NDArray[np.bool_],
    shown: npt.NDArray[np.float32],
) -> None:
    """Every server not skipped takes one action [E, 2]: a pick, and how much it drafts."""
    for i in range(actions.shape[0]):
        if not skip[i]:
            ask(c, state, i, actions[i, 0], actions[i, 1])
            take_action(c, state, i, actions[i, 0], scale)
        if shown.shape[0] > 0:
            copy_table(state.servers[i], episode_of(state, i), shown[i])


@jit
def step_scores(
    c: Any,
    scale: float,
    state: BatchedState,
    priorities: npt.NDArray[np.float64],
    skip: npt.NDArray[np.bool_],
    shown: npt.NDArray[np.float32],
) -> None:
    """Every server not skipped runs one whole round: its lowest priorities, ties by arrival."""
    for i in range(priorities.shape[0]):
        if not skip[i]:
            began = begin_step(state, i)
            e = episode_of(state, i)
            pick_by_priority(c, state.servers[i], e, priorities[i])
            run_round(c, state.servers[i], e)
            finish_step(c, state, i, e, began, True, scale)
        if shown.shape[0] > 0:
            copy_table(state.servers[i], episode_of(state, i), shown[i])


class Scorer(NamedTuple):
    """A rule at work on one server: what scores, and the arrays for it.

    ``memory``: column 0 names the owner (arrival number + 1), so that a new request finds its cells
    zeroed. ``remaining``, the rounds still to run from each output position, is empty but for a
    clairvoyant rule, which finds its value in its first cell. ``raised`` is set from outside when
    compiled code behind a pointer raises (`laps_env.utils.rule_errors`). A rule that also decides
    drafts leaves the longest of a request, and the threshold, in its last two cells.
    """

    rule: Any  # compiled by `laps_env.utils.jit.rule`
    prepare: Any  # compiled by `laps_env.utils.jit.prepare`
    params: npt.NDArray[np.float64]
    server: npt.NDArray[np.float32]  # [G + shared]: server columns, then what `prepare` wrote
    memory: npt.NDArray[np.float64]  # [N, 1 + cells]
    remaining: npt.NDArray[np.float64]  # [T] or [0]
    priority: npt.NDArray[np.float64]  # [N], the result
    raised: npt.NDArray[np.int8]  # [1]
    drafts: bool


@inlined
def score_all(server: Any, e: Episode, columns: npt.NDArray[np.float32], scorer: Scorer) -> int:
    """Priorities of all active requests by a rule; the slot at which it fails, or `FREE`."""
    memory, remaining = scorer.memory, scorer.remaining
    for j in range(columns.size):
        scorer.server[j] = columns[j]
    scorer.prepare(e.queue, scorer.server, scorer.params)
    if scorer.raised[0] != 0:
        return e.active[0]
    for k in range(server.active):
        index = e.active[k]
        slot = e.slots[index]
        if memory[index, 0] != slot.request + 1:
            memory[index] = 0.0
            memory[index, 0] = slot.request + 1
        if remaining.size > 0:
            memory[index, 1] = remaining[slot.position]
        priority = scorer.rule(e.queue[index], scorer.server, scorer.params, memory[index, 1:])
        if scorer.raised[0] != 0 or not np.isfinite(priority):
            return index
        scorer.priority[index] = priority
        if scorer.drafts:
            longest, threshold = memory[index, -2], memory[index, -1]
            if not (np.isfinite(longest) and np.isfinite(threshold)):
                return index
            slot.asked = min(max(longest, 0.0), MAX_DRAFT_LENGTH)
            slot.threshold = min(max(threshold, 0.0), 1.0)
    return FREE


@jit
def run_rule(c: Any, state: BatchedState, scorer: Scorer, max_rounds: int) -> int:
    """Serve server 0's episode with a rule, whole rounds, to its end or for ``max_rounds``.

    Returns:
        `FREE`, or the slot of the request for which the rule raises or gives no finite priority,
        before whose round the server stands then.
    """
    server = state.servers[0]
    e = episode_of(state, 0)
    columns = state.server_obs[0]
    for _ in range(max_rounds):
        if server.finished == server.requests or server.truncated == 1:
            break
        failed = score_all(server, e, columns, scorer)
        if failed != FREE:
            return failed
        pick_by_priority(c, server, e, scorer.priority)
        run_round(c, server, e)
        next_decision(server, e)
        refresh_times(server, e)
        show_server(c, server, e, columns)
    return FREE


@jit
def run_in_order(c: Any, state: BatchedState, alike: npt.NDArray[np.float64]) -> None:
    """Serve server 0's episode to its end, first come first served: all priorities [N] alike."""
    server = state.servers[0]
    e = episode_of(state, 0)
    while server.finished < server.requests and server.truncated == 0:
        pick_by_priority(c, server, e, alike)
        run_round(c, server, e)
        next_decision(server, e)
