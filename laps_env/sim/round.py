"""One round of speculative decoding, the physics that every face drives, from top to bottom.

`docs/physics.md` states the same rules in words; `tests/reference.py` states them again in plain
Python and must agree in every integer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from laps_env.sim.adaptive_steps import note_accepted, sglang_draft_length
from laps_env.sim.admission import arrival_ns, release
from laps_env.sim.commit import accepted_tokens, committed_tokens, drafted_tokens
from laps_env.sim.confidence import BY_CONFIDENCE, confident_length
from laps_env.sim.costs import Work, draft_step_ns, duration_ns, verification_ns
from laps_env.sim.draft_length import (
    BY_POLICY,
    BY_SGLANG,
    BY_SMARTSPEC,
    FORGETTING,
    TABLE_SIZE,
    smartspec_draft_length,
)
from laps_env.sim.gaps import count_gap
from laps_env.sim.observation import (
    show_eviction,
    show_progress,
    show_refresh,
    show_round_begin,
)
from laps_env.sim.rate import BY_RATE, draft_by_rate
from laps_env.sim.state import BY_AGENT, BY_SCHEDULE, BY_SERVER, Episode
from laps_env.sim.topk import BY_TOPK, verify_surest
from laps_env.utils.jit import inlined


@inlined
def run_round(c: Any, server: Any, e: Episode) -> None:
    """Serve the picked requests for one round: make room, restore, draft, verify, commit."""
    open_round(c, server, e)
    finish_at_cost(c, server, e)


@inlined
def finish_at_cost(c: Any, server: Any, e: Episode) -> None:
    """The rest of an opened round, at what the cost model says."""
    work = do_work(c, server, e)
    steps_ns = draft_step_ns(c, work) if work.steps > 0 else 0.0
    close_round(server, e, work, duration_ns(c, work), steps_ns, verification_ns(c, work))


@inlined
def open_round(c: Any, server: Any, e: Episode) -> None:
    """Note who is left out, decide how much to draft, and make room for those who are in."""
    note_preemptions(server, e)
    if server.arrived - server.finished > server.picked:
        server.contended += 1
    decide_draft_length(c, server, e)
    make_room(c, server, e)


@inlined
def do_work(c: Any, server: Any, e: Episode) -> Work:
    """Restore the caches and draft; what the round then costs."""
    prefill, prefills, restores, restored = restore_caches(server, e)
    verify, kv, steps, drafted, draft_kv = draft(c, server, e)
    swaps, swapped = server.offloads + restores, server.offloaded + restored
    return Work(verify, prefill, kv, steps, drafted, draft_kv, prefills, swaps, swapped)


@inlined
def close_round(
    server: Any, e: Episode, work: Work, duration: int, step_ns: float, verify_ns: float
) -> None:
    """Let the round take its time and commit its tokens; both measured times are observed."""
    server.verify_ns = verify_ns
    if work.steps > 0:
        server.draft_step_ns = step_ns
    pass_time(server, e, duration)
    finish_round(server, e, duration)


@inlined
def note_preemptions(server: Any, e: Episode) -> None:
    """Unfinished requests of the last round that are left out of this one were pre-empted."""
    for k in range(server.ran):
        slot = e.slots[e.ran[k]]
        if slot.ran == 1 and e.hot[e.ran[k]].picked == 0:
            slot.preemptions += 1
        slot.ran = 0
        show_round_begin(e, e.ran[k])


@inlined
def decide_draft_length(c: Any, server: Any, e: Episode) -> None:
    """The fixed draft length, or what a rule chooses, for which it then reserves cache.

    An agent's picks have reserved for theirs already.
    """
    server.draft_length = c.draft_length
    if c.draft_length < 0 and server.drafts_by != BY_AGENT:
        room = (c.pool_tokens - server.reserved) // server.picked
        server.draft_length = min(choose_draft_length(c, server, e, room), room)
        server.reserved += server.picked * server.draft_length


@inlined
def choose_draft_length(c: Any, server: Any, e: Episode, room: int) -> Any:
    """What the rule in force chooses (`laps_env.sim.server_model.DRAFT_RULES`)."""
    context = server.reserved - server.picked * server.lookahead
    if c.draft_length == BY_SMARTSPEC:
        return smartspec_draft_length(c, server, context, room)
    if c.draft_length == BY_RATE:
        return draft_by_rate(c, server, e, context, room)
    if c.draft_length == BY_CONFIDENCE or c.draft_length == BY_TOPK:
        return c.most_drafted
    if c.draft_length == BY_POLICY:
        longest = 0
        for k in range(server.picked):
            longest = max(longest, e.slots[e.batch[k]].asked)
        return longest
    if c.draft_length == BY_SGLANG:
        return sglang_draft_length(e.adaptive, server.picked)
    return c.draft_table[min(server.picked, TABLE_SIZE) - 1]


@inlined
def make_room(c: Any, server: Any, e: Episode) -> None:
    """Evict until the round fits the pool."""
    held_outside = server.held
    for k in range(server.picked):
        slot = e.slots[e.batch[k]]
        held_outside -= e.hot[e.batch[k]].context * slot.resident
    server.offloads = server.offloaded = 0
    while server.reserved + held_outside > c.pool_tokens:
        index = choose_victim(c, server, e)
        slot, context = e.slots[index], e.hot[index].context
        slot.resident = 0
        show_eviction(e, index)
        server.held -= context
        held_outside -= context
        if c.swap == 1:
            slot.swapped = 1
            server.offloads += 1
            server.offloaded += context


@inlined
def choose_victim(c: Any, server: Any, e: Episode) -> int:
    """The resident request outside the round that loses its cache (`ServerModel.victim`)."""
    victim, worst = -1, -1
    for k in range(server.active):
        index = e.active[k]
        slot, hot = e.slots[index], e.hot[index]
        if slot.resident == 1 and hot.picked == 0:
            if c.victim == 0:
                key = server.now - hot.served_at
            elif c.victim == 1:
                key = slot.request
            else:
                key = hot.context
            if key >= worst:  # the later arrival loses a tie
                victim, worst = index, key
    return victim


@inlined
def restore_caches(server: Any, e: Episode) -> tuple[int, int, int, int]:
    """Bring the picked requests' caches onto the device.

    Returns:
        Tokens to compute, requests with such, requests to move back from the host, their tokens.
    """
    prefill, prefills, restores, restored = 0, 0, 0, 0
    for k in range(server.picked):
        slot, context = e.slots[e.batch[k]], e.hot[e.batch[k]].context
        if slot.resident == 1:
            continue
        if slot.swapped == 1:
            restores += 1
            restored += context
        else:
            prefill += context
            prefills += 1
            if slot.generated > 0:
                e.requests[slot.request].recomputed_tokens += context
        slot.resident = 1
        slot.swapped = 0
        server.held += context
    return prefill, prefills, restores, restored


@inlined
def draft(c: Any, server: Any, e: Episode) -> tuple[int, int, int, int, int]:
    """Draft for each picked request what its position allows, and say what of it is verified.

    Returns:
        Tokens to verify, context tokens read, sequential draft steps, tokens drafted, context
        tokens that their steps read.
    """
    server.last_draft_length = 0
    kv, steps, drafted, draft_kv = 0, 0, 0, 0
    for k in range(server.picked):
        slot, context = e.slots[e.batch[k]], e.hot[e.batch[k]].context
        draft_length = draft_length_of(c, server, e, slot)
        server.last_draft_length = max(server.last_draft_length, draft_length)
        slot.drafting = draft_length
        if e.max_draft.size > 0:
            slot.drafting = drafted_tokens(e.max_draft, slot.position, draft_length)
        slot.verifying = slot.drafting
        drafted += slot.drafting
        draft_kv += slot.drafting * context
        steps = max(steps, slot.drafting)
        kv += context
    verified = drafted
    if c.draft_length == BY_TOPK and server.drafts_by == BY_SERVER:
        work = Work(server.picked, 0, kv, steps, drafted, draft_kv, 0, 0, 0)
        verified = verify_surest(c, server, e, work)
    return server.picked + verified, kv, steps, drafted, draft_kv


@inlined
def draft_length_of(c: Any, server: Any, e: Episode, slot: Any) -> Any:
    """Draft length in force for one request: its own, where there is one, before the round's."""
    if server.drafts_by == BY_AGENT:
        if c.draft_length == BY_CONFIDENCE:
            return confident_draft(e, slot, np.int64(slot.asked), c.threshold)
        return np.int64(slot.asked)
    if server.drafts_by == BY_SCHEDULE:
        return np.int64(e.schedule[e.requests[slot.request].schedule_offset + slot.rounds])
    if c.draft_length == BY_CONFIDENCE:
        return confident_draft(e, slot, server.draft_length, c.threshold)
    if c.draft_length == BY_POLICY:
        return confident_draft(e, slot, min(slot.asked, server.draft_length), slot.threshold)
    if c.draft_length == BY_RATE:
        return np.int64(slot.drafting)
    return server.draft_length


@inlined
def confident_draft(e: Episode, slot: Any, longest: int, threshold: float) -> Any:
    """Tokens drafted for a request until its draft is unsure, at most ``longest``."""
    request = e.requests[slot.request]
    end = request.offset + request.output_tokens
    return confident_length(e.confidence, slot.position, end, longest, threshold)


@inlined
def pass_time(server: Any, e: Episode, duration: int) -> None:
    """Advance the clock, integrating the number of requests in the system."""
    server.integral_ns += (server.arrived - server.finished) * duration
    server.now += duration
    server.busy_ns += duration
    server.rounds += 1
    number, arrives = server.arrived, server.next_ns
    while arrives <= server.now:
        server.integral_ns += server.now - arrives
        number += 1
        arrives = arrival_ns(server, e, number)


@inlined
def finish_round(server: Any, e: Episode, duration: int) -> None:
    """Commit to each request of the round what its acceptance allows."""
    hits, trials, drafted_total = 0, 0, 0
    for k in range(server.picked):
        slot = e.slots[e.batch[k]]
        e.ran[k] = e.batch[k]
        drafted = slot.verifying
        accepted = accepted_tokens(e.accepted_length, slot.position, drafted)
        drafted_total += drafted
        hits += accepted
        trials += accepted + (1 if accepted < drafted else 0)
        commit(server, e, e.batch[k], drafted, accepted, duration)
    if e.adaptive.size > 0:
        note_accepted(e.adaptive, server.picked, hits)
    server.undrafted += 1
    if drafted_total > 0:
        server.undrafted = 0
        server.hits = FORGETTING * server.hits + hits
        server.trials = FORGETTING * server.trials + trials
    server.ran = server.picked
    server.picked = 0
    server.reserved = 0


@inlined
def commit(server: Any, e: Episode, index: int, drafted: int, accepted: int, duration: int) -> None:
    """Account one round, which ends ``now``, to one request; release it if it is complete."""
    slot = e.slots[index]
    request = e.requests[slot.request]
    tokens = committed_tokens(accepted, request.output_tokens - slot.generated)
    gap = server.now - e.hot[index].served_at
    idle = gap - duration
    request.longest_idle_ns = max(request.longest_idle_ns, idle)
    if slot.rounds == 0:
        request.first_token_ns = server.now
    else:
        request.longest_stall_ns = max(request.longest_stall_ns, gap)
        count_gap(e.gaps, gap)
    note_service(server, e, index, duration)
    note_tokens(server, e, index, tokens, drafted, accepted)
    if slot.generated == request.output_tokens:
        request.completion_ns = server.now
        request.completion_order = server.order
        request.drafted, request.accepted = slot.drafted, slot.accepted
        request.preemptions = slot.preemptions
        request.attained_ns = slot.attained_ns
        server.order += 1
        release(server, e, index)
    else:
        show_progress(e, index, drafted, accepted)
        if server.refresh_every > 0:
            show_refresh(server, e, index)


@inlined
def note_service(server: Any, e: Episode, index: int, duration: int) -> None:
    """A request was in a round that ends ``now``."""
    slot, hot = e.slots[index], e.hot[index]
    slot.attained_ns += duration
    hot.served_at = server.now
    hot.served_round = server.rounds
    hot.picked = 0
    slot.ran = 1


@inlined
def note_tokens(
    server: Any, e: Episode, index: int, tokens: int, drafted: int, accepted: int
) -> None:
    """A round committed tokens to a request."""
    slot = e.slots[index]
    latest = e.window[index, slot.rounds % e.window.shape[1]]
    latest.drafted = drafted
    latest.accepted = accepted
    latest.rate = accepted / max(drafted, 1)
    slot.generated += tokens
    slot.position += tokens
    slot.rounds += 1
    slot.drafted += drafted
    slot.accepted += accepted
    slot.refused += 1 if accepted < drafted else 0
    e.hot[index].context += tokens
    server.held += tokens
    server.wanted += tokens
