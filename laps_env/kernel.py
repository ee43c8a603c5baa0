"""The physics of one speculative-decoding server, compiled; written once, driven by every face.

A server is a record of totals (`SERVER`), a table with a record per slot (`SLOT`), the requests of
the episode (`REQUEST`) and the acceptance of every output position. `docs/physics.md` states the
same rules in words; `tests/reference.py` states them again in plain Python, and must agree with
this file in every integer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from laps_env._jit import inlined, jit
from laps_env.draft_length import FORGETTING, smartspec_draft_length
from laps_env.layout import (
    ACCEPTED,
    ARRIVAL_NUMBER,
    ATTAINED_S,
    CACHED,
    CATEGORY,
    DRAFTED,
    GENERATED_TOKENS,
    IDLE_ROUNDS,
    IDLE_S,
    LAST_ACCEPTED,
    LAST_DRAFTED,
    OCCUPIED,
    PICKED,
    PREDICTED_TOKENS,
    PROMPT_TOKENS,
    RAN,
    ROUNDS,
    WAITING_S,
    WINDOW_ACCEPTANCE,
    WINDOW_SPREAD,
)

FREE = -1

#: Totals of one server; times in nanoseconds, counts of requests, cache in tokens.
SERVER = np.dtype(
    [
        ("now", np.int64),
        ("requests", np.int64),  # in the episode
        ("arrived", np.int64),
        ("admitted", np.int64),  # have a slot or had one
        ("finished", np.int64),
        ("active", np.int64),  # in a slot now
        ("picked", np.int64),  # for the next round
        ("wanted", np.int64),  # context tokens of all requests in slots
        ("held", np.int64),  # of those, tokens in the cache
        ("reserved", np.int64),  # context + look-ahead of the picked
        ("rounds", np.int64),
        ("busy_ns", np.int64),
        ("integral_ns", np.int64),  # of the number in the system, over the step
        ("last_draft_length", np.int64),
        ("draft_step_ns", np.float64),  # as measured in the last round that drafted
        ("verify_ns", np.float64),  # as measured in the last round
        ("saturation_rps", np.float64),  # of the scenario, for the load estimate
        ("hits", np.float64),  # SmartSpec's running acceptance
        ("trials", np.float64),
        ("lookahead", np.int64),  # cache tokens reserved beyond the context: longest draft + 1
        ("scheduled", np.int64),  # draft lengths are given round by round
        ("time_limit_ns", np.int64),
        ("queue_limit", np.int64),
        ("truncated", np.int64),
        ("order", np.int64),  # completions so far, numbers them
    ],
    align=True,
)

#: One slot of the request table.
SLOT = np.dtype(
    [
        ("request", np.int64),  # FREE or the request's arrival number
        ("generated", np.int64),
        ("rounds", np.int64),
        ("drafted", np.int64),
        ("accepted", np.int64),
        ("attained_ns", np.int64),
        ("served_at", np.int64),  # end of its last round, or its arrival
        ("served_round", np.int64),  # server rounds at that moment, or when it got the slot
        ("context", np.int64),  # prompt + generated
        ("resident", np.int64),
        ("swapped", np.int64),
        ("picked", np.int64),
        ("drafting", np.int64),  # draft length in the round at hand
        ("ran", np.int64),  # in the last round
    ],
    align=True,
)

#: One request of the episode: what was given, then what happened (0 until it does).
REQUEST = np.dtype(
    [
        ("arrival_ns", np.int64),
        ("prompt_tokens", np.int64),
        ("output_tokens", np.int64),
        ("category", np.int64),
        ("offset", np.int64),  # of its acceptance in the flat arrays
        ("schedule_offset", np.int64),
        ("predicted_tokens", np.float64),
        ("first_token_ns", np.int64),
        ("completion_ns", np.int64),
        ("completion_order", np.int64),
        ("preemptions", np.int64),
        ("recomputed_tokens", np.int64),
        ("attained_ns", np.int64),
        ("longest_idle_ns", np.int64),
    ],
    align=True,
)

#: One round of one request, as the windowed acceptance needs it.
ROUND = np.dtype([("drafted", np.int64), ("accepted", np.int64), ("rate", np.float64)], align=True)


class Episode(NamedTuple):
    """Everything that one server's rounds read or write (one row of the vector environment)."""

    requests: npt.NDArray[Any]  # REQUEST [R]
    accept_run: npt.NDArray[np.uint8]  # [T] flat over output positions
    proposable: npt.NDArray[np.uint8]  # [T], or [0] where every draft length can be proposed
    schedule: npt.NDArray[np.uint8]  # [S] given draft lengths, or [0]
    slots: npt.NDArray[Any]  # SLOT [N]
    active: npt.NDArray[np.int64]  # [N] occupied slots in order of arrival
    batch: npt.NDArray[np.int64]  # [N] picked slots in the order of picking
    ranked: npt.NDArray[np.int64]  # [N] scratch
    window: npt.NDArray[Any]  # ROUND [N, W] the last rounds of each slot, a ring
    queue: npt.NDArray[np.float32]  # [N, F] the observation's rows, kept current


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
    slot.served_at = request.arrival_ns
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


@inlined
def refresh_times(server: Any, e: Episode) -> None:
    """Bring the columns that change by waiting up to date."""
    for k in range(server.active):
        index = e.active[k]
        slot = e.slots[index]
        row = e.queue[index]
        row[WAITING_S] = (server.now - e.requests[slot.request].arrival_ns) * 1e-9
        row[IDLE_S] = (server.now - slot.served_at) * 1e-9
        row[IDLE_ROUNDS] = server.rounds - slot.served_round


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


@inlined
def note_preemptions(server: Any, e: Episode) -> None:
    """Unfinished requests of the last round that are left out of this one were pre-empted."""
    for k in range(server.active):
        slot = e.slots[e.active[k]]
        if slot.ran == 1 and slot.picked == 0:
            e.requests[slot.request].preemptions += 1
        slot.ran = 0
        e.queue[e.active[k], RAN] = 0


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
def make_room(c: Any, server: Any, e: Episode) -> int:
    """Evict until the round fits the pool; returns the tokens swapped out."""
    held_outside = server.held
    for k in range(server.picked):
        slot = e.slots[e.batch[k]]
        held_outside -= slot.context * slot.resident
    swapped_out = 0
    while server.reserved + held_outside > c.pool_tokens:
        index = choose_victim(c, server, e)
        slot = e.slots[index]
        slot.resident = 0
        e.queue[index, CACHED] = 0
        server.held -= slot.context
        held_outside -= slot.context
        if c.swap == 1:
            slot.swapped = 1
            swapped_out += slot.context
    return swapped_out


@inlined
def commit(server: Any, e: Episode, index: int, drafted: int, accepted: int, duration: int) -> None:
    """Account one round, which ends ``now``, to one request; release it if it is complete."""
    slot = e.slots[index]
    request = e.requests[slot.request]
    tokens = min(accepted + 1, request.output_tokens - slot.generated)
    idle = server.now - duration - slot.served_at
    request.longest_idle_ns = max(request.longest_idle_ns, idle)
    if slot.rounds == 0:
        request.first_token_ns = server.now
    latest = e.window[index, slot.rounds % e.window.shape[1]]
    latest.drafted = drafted
    latest.accepted = accepted
    latest.rate = accepted / max(drafted, 1)
    slot.generated += tokens
    slot.rounds += 1
    slot.drafted += drafted
    slot.accepted += accepted
    slot.attained_ns += duration
    slot.served_at = server.now
    slot.served_round = server.rounds
    slot.context += tokens
    slot.picked = 0
    slot.ran = 1
    server.held += tokens
    server.wanted += tokens
    if slot.generated == request.output_tokens:
        request.completion_ns = server.now
        request.completion_order = server.order
        request.attained_ns = slot.attained_ns
        server.order += 1
        release(server, e, index)
    else:
        show_progress(e, index, drafted, accepted)


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
def draft_length_of(server: Any, e: Episode, slot: Any, chosen: int) -> int:
    """Draft length in force for one request: its given schedule goes before the round's."""
    if server.scheduled == 1:
        return np.int64(e.schedule[e.requests[slot.request].schedule_offset + slot.rounds])
    return chosen


@inlined
def proposed(e: Episode, slot: Any, draft_length: int) -> int:
    """Tokens drafted for a request: as far as the drafter can propose at its position."""
    if e.proposable.size == 0:
        return draft_length
    position = e.requests[slot.request].offset + slot.generated
    return min(draft_length, np.int64(e.proposable[position]))


@inlined
def run_round(c: Any, server: Any, e: Episode) -> None:
    """Serve the picked requests for one round: make room, restore, draft, verify, commit."""
    note_preemptions(server, e)
    swapped = make_room(c, server, e)
    length = c.draft_length
    if length < 0:
        length = smartspec_draft_length(c, server.hits, server.trials, server.picked)

    prefill, prefills, verify, drafted_total, steps, kv, longest = 0, 0, 0, 0, 0, 0, 0
    for k in range(server.picked):
        slot = e.slots[e.batch[k]]
        if slot.resident == 0:
            if slot.swapped == 1:
                swapped += slot.context
            else:
                prefill += slot.context
                prefills += 1
                if slot.generated > 0:
                    e.requests[slot.request].recomputed_tokens += slot.context
            slot.resident = 1
            slot.swapped = 0
            server.held += slot.context
        draft_length = draft_length_of(server, e, slot, length)
        longest = max(longest, draft_length)
        slot.drafting = proposed(e, slot, draft_length)
        verify += slot.drafting + 1
        drafted_total += slot.drafting
        steps = max(steps, slot.drafting)
        kv += slot.context
    duration = int(
        np.rint(
            c.overhead_ns
            + c.target_pass_ns
            + c.target_token_ns * (verify + prefill)
            + c.target_kv_token_ns * kv
            + c.draft_step_ns * steps
            + c.draft_token_ns * drafted_total
            + c.prefill_request_ns * prefills
            + c.swap_token_ns * swapped
        )
    )
    server.verify_ns = (
        c.overhead_ns + c.target_pass_ns + c.target_token_ns * verify + c.target_kv_token_ns * kv
    )
    server.last_draft_length = longest
    if steps > 0:
        server.draft_step_ns = (c.draft_step_ns * steps + c.draft_token_ns * drafted_total) / steps

    pass_time(server, e, duration)
    finish_round(server, e, duration)


@inlined
def pass_time(server: Any, e: Episode, duration: int) -> None:
    """Advance the clock, integrating the number of requests in the system."""
    server.integral_ns += (server.arrived - server.finished) * duration
    server.now += duration
    server.busy_ns += duration
    server.rounds += 1
    number = server.arrived
    while number < server.requests and e.requests[number].arrival_ns <= server.now:
        server.integral_ns += server.now - e.requests[number].arrival_ns
        number += 1


@inlined
def finish_round(server: Any, e: Episode, duration: int) -> None:
    """Commit to each request of the round what its acceptance allows."""
    hits, trials, drafted_total = 0, 0, 0
    for k in range(server.picked):
        slot = e.slots[e.batch[k]]
        drafted = slot.drafting
        accepted = min(
            np.int64(e.accept_run[e.requests[slot.request].offset + slot.generated]), drafted
        )
        drafted_total += drafted
        hits += accepted
        trials += accepted + (1 if accepted < drafted else 0)
        commit(server, e, e.batch[k], drafted, accepted, duration)
    if drafted_total > 0:
        server.hits = FORGETTING * server.hits + hits
        server.trials = FORGETTING * server.trials + trials
    server.picked = 0
    server.reserved = 0
