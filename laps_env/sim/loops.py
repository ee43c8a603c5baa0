"""Many servers side by side: the compiled loops behind the environments and the evaluation."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from laps_env.sim.admission import admit, advance_to_work, check_limits
from laps_env.sim.observation import QUEUE_COLUMNS, SERVER_COLUMNS
from laps_env.sim.observing import refresh_times, show_choices, show_server
from laps_env.sim.picking import pick, pick_by_priority
from laps_env.sim.round import run_round
from laps_env.sim.state import FREE, REQUEST, ROUND, SERVER, SLOT, Episode
from laps_env.utils.jit import inlined, jit


class BatchedState(NamedTuple):
    """The state of E servers with N slots each; row i of every array belongs to server i."""

    servers: npt.NDArray[Any]  # SERVER [E]
    requests: npt.NDArray[Any]  # REQUEST [E, R]
    accepted_length: npt.NDArray[np.uint8]  # [E, T]
    max_draft: npt.NDArray[np.uint8]  # [E, T] or [E, 0]
    schedule: npt.NDArray[np.uint8]  # [E, S]
    slots: npt.NDArray[Any]  # SLOT [E, N]
    active: npt.NDArray[np.int64]  # [E, N]
    batch: npt.NDArray[np.int64]  # [E, N]
    ranked: npt.NDArray[np.int64]  # [E, N]
    window: npt.NDArray[Any]  # ROUND [E, N, W]
    queue: npt.NDArray[np.float32]  # [E, N, F] observation
    server_view: npt.NDArray[np.float32]  # [E, G] observation
    mask: npt.NDArray[np.int8]  # [E, N + 1] valid actions
    reward: npt.NDArray[np.float64]  # [E] of the last step
    dt: npt.NDArray[np.float64]  # [E] seconds of the last step
    ran_round: npt.NDArray[np.bool_]  # [E] the last step ran a round
    invalid: npt.NDArray[np.bool_]  # [E] the last action was masked


def make_state(num_envs: int, slots: int, window: int) -> BatchedState:
    """An empty state; the arrays that hold workloads grow when one is put on it."""
    e, n = num_envs, slots
    return BatchedState(
        servers=np.zeros(e, SERVER),
        requests=np.zeros((e, 0), REQUEST),
        accepted_length=np.zeros((e, 0), np.uint8),
        max_draft=np.zeros((e, 0), np.uint8),
        schedule=np.zeros((e, 0), np.uint8),
        slots=np.zeros((e, n), SLOT),
        active=np.zeros((e, n), np.int64),
        batch=np.zeros((e, n), np.int64),
        ranked=np.zeros((e, n), np.int64),
        window=np.zeros((e, n, window), ROUND),
        queue=np.zeros((e, n, len(QUEUE_COLUMNS)), np.float32),
        server_view=np.zeros((e, len(SERVER_COLUMNS)), np.float32),
        mask=np.zeros((e, n + 1), np.int8),
        reward=np.zeros(e),
        dt=np.zeros(e),
        ran_round=np.zeros(e, np.bool_),
        invalid=np.zeros(e, np.bool_),
    )


@inlined
def episode_of(state: BatchedState, i: int) -> Episode:
    """Server i's arrays."""
    return Episode(
        state.requests[i],
        state.accepted_length[i],
        state.max_draft[i],
        state.schedule[i],
        state.slots[i],
        state.active[i],
        state.batch[i],
        state.ranked[i],
        state.window[i],
        state.queue[i],
    )


@jit
def start_episode(c: Any, state: BatchedState, i: int) -> None:
    """Empty server i, with its requests, limits and saturation set, moves to its first decision."""
    server = state.servers[i]
    e = episode_of(state, i)
    server.now = server.arrived = server.admitted = server.finished = server.active = 0
    server.picked = server.wanted = server.held = server.reserved = server.rounds = 0
    server.busy_ns = server.integral_ns = server.truncated = server.order = 0
    server.hits = server.trials = 0.0
    nominal = max(c.draft_length, 0)
    server.last_draft_length = nominal
    server.draft_step_ns = c.draft_step_ns + c.draft_token_ns
    server.verify_ns = c.overhead_ns + c.target_pass_ns + c.target_token_ns * (nominal + 1)
    for k in range(e.slots.shape[0]):
        e.slots[k].request = FREE
    e.queue[:] = 0
    server.now = e.requests[0].arrival_ns  # no limit is tested before the first round
    admit(server, e)
    show_all(c, state, i, e)


@inlined
def show_all(c: Any, state: BatchedState, i: int, e: Episode) -> int:
    """Bring server i's whole observation up to date; returns how many requests may be picked."""
    server = state.servers[i]
    refresh_times(server, e)
    show_server(c, server, e, state.server_view[i])
    return show_choices(c, server, e, state.mask[i])


@inlined
def serve(c: Any, state: BatchedState, i: int, e: Episode) -> None:
    """Run the round and move to the next decision."""
    run_round(c, state.servers[i], e)
    move_on(c, state, i, e)


@inlined
def move_on(c: Any, state: BatchedState, i: int, e: Episode) -> None:
    """After a round: to the next decision."""
    server = state.servers[i]
    advance_to_work(server, e)
    check_limits(server)
    show_all(c, state, i, e)
    state.ran_round[i] = True


@inlined
def choose(c: Any, state: BatchedState, i: int, e: Episode, action: int) -> bool:
    """One pick (`laps_env.envs.replay.SpecDecodeReplay`, Action Space); whether the round starts."""
    server = state.servers[i]
    starts = e.slots.shape[0]
    state.ran_round[i] = False
    state.invalid[i] = state.mask[i, action] == 0
    if state.invalid[i]:
        if server.picked == 0:
            pick(server, e, e.active[0])
    elif action != starts:
        pick(server, e, action)
        show_server(c, server, e, state.server_view[i])
        return show_choices(c, server, e, state.mask[i]) == 0
    return True


@jit
def step_picks(
    c: Any,
    state: BatchedState,
    actions: npt.NDArray[np.int64],
    skip: npt.NDArray[np.bool_],
    scale: float,
) -> None:
    """Every server not skipped takes one action: a pick, or the start of the round."""
    for i in range(actions.shape[0]):
        if not skip[i]:
            begin_step(state, i)
            before = state.servers[i].now
            e = episode_of(state, i)
            if choose(c, state, i, e, actions[i]):
                serve(c, state, i, e)
            end_step(state, i, before, scale)


@jit
def step_priorities(
    c: Any,
    state: BatchedState,
    priorities: npt.NDArray[np.float64],
    skip: npt.NDArray[np.bool_],
    scale: float,
) -> None:
    """Every server not skipped runs one whole round: its lowest priorities, ties by arrival."""
    for i in range(priorities.shape[0]):
        if not skip[i]:
            begin_step(state, i)
            e = episode_of(state, i)
            before = state.servers[i].now
            pick_by_priority(c, state.servers[i], e, priorities[i])
            serve(c, state, i, e)
            end_step(state, i, before, scale)


@inlined
def begin_step(state: BatchedState, i: int) -> None:
    """Clear what a step reports."""
    state.servers[i].integral_ns = 0
    state.invalid[i] = False


@inlined
def end_step(state: BatchedState, i: int, before: int, scale: float) -> None:
    """Reward and duration of the step that began at ``before``."""
    server = state.servers[i]
    state.reward[i] = -(server.integral_ns * 1e-9) / scale
    state.dt[i] = (server.now - before) * 1e-9


class Scorer(NamedTuple):
    """A rule at work on one server: who scores, and the arrays for it.

    ``memory``: column 0 names the owner (arrival number + 1), so that a new request finds its cells
    zeroed. ``truth``, the rounds still to run from each output position, is empty but for a
    clairvoyant rule, which finds its value in its first cell.
    """

    rule: Any  # `laps_env.utils.jit.rule`
    prepare: Any  # `laps_env.utils.jit.prepare`
    params: npt.NDArray[np.float64]
    server: npt.NDArray[np.float32]  # [G + context]: the server's view, then what the prepare found
    memory: npt.NDArray[np.float64]  # [N, 1 + cells]
    truth: npt.NDArray[np.float64]  # [T] or [0]
    priority: npt.NDArray[np.float64]  # [N], the result


@inlined
def score_all(server: Any, e: Episode, view: npt.NDArray[np.float32], scorer: Scorer) -> None:
    """Priorities of all active requests by a rule."""
    memory, truth = scorer.memory, scorer.truth
    for j in range(view.size):
        scorer.server[j] = view[j]
    scorer.prepare(e.queue, scorer.server, scorer.params)
    for k in range(server.active):
        index = e.active[k]
        slot = e.slots[index]
        if memory[index, 0] != slot.request + 1:
            memory[index] = 0.0
            memory[index, 0] = slot.request + 1
        if truth.size > 0:
            memory[index, 1] = truth[e.requests[slot.request].offset + slot.generated]
        scorer.priority[index] = scorer.rule(
            e.queue[index], scorer.server, scorer.params, memory[index, 1:]
        )


@jit
def run_rule(
    c: Any,
    state: BatchedState,
    scorer: Scorer,
    max_rounds: int,
) -> None:
    """Serve server 0's episode with a rule, whole rounds, to its end or for ``max_rounds``."""
    server = state.servers[0]
    e = episode_of(state, 0)
    view = state.server_view[0]
    for _ in range(max_rounds):
        if server.finished == server.requests or server.truncated == 1:
            return
        score_all(server, e, view, scorer)
        pick_by_priority(c, server, e, scorer.priority)
        run_round(c, server, e)
        advance_to_work(server, e)
        check_limits(server)
        refresh_times(server, e)
        show_server(c, server, e, view)
