"""The observation: its columns with units and bounds, and how each follows from what happens.

``QUEUE_COLUMNS`` describe ``observation["queue"]`` (a row per slot, zero where the slot is empty),
``SERVER_COLUMNS`` the entries of ``observation["server"]``. Rules and agents index by the constants
below, which the kernel compiles in: ``row[WAITING_S]``, ``server[VERIFY_S]``. The functions after
them write the columns, each when the event happens that changes them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from laps_env.sim.state import NO_LIMIT, Episode
from laps_env.utils.checks import MAX_COUNT, MAX_SECONDS
from laps_env.utils.jit import inlined

#: Most time to a limit that is shown, either side of it; what is shown where there is none.
MOST_LEFT_S = 3600.0


class Column(NamedTuple):
    """Observed number: name, unit, upper bound, meaning and lower bound."""

    name: str
    unit: str
    high: float
    meaning: str
    low: float = 0.0


QUEUE_COLUMNS = (
    Column("occupied", "0/1", 1, "a request is in this slot"),
    Column("arrival_number", "count", MAX_COUNT, "position in the order of arrival, from 0"),
    Column("waiting_s", "s", MAX_SECONDS, "time since arrival"),
    Column("prompt_tokens", "tokens", MAX_COUNT, "length of the prompt"),
    Column(
        "predicted_tokens",
        "tokens",
        MAX_COUNT,
        "predicted output length, as told last (see predictor error)",
    ),
    Column("generated_tokens", "tokens", MAX_COUNT, "output tokens committed so far"),
    Column("rounds", "rounds", MAX_COUNT, "rounds that served the request"),
    Column("drafted", "tokens", MAX_COUNT, "tokens drafted for it so far"),
    Column(
        "accepted", "tokens", MAX_COUNT, "drafted tokens accepted so far; A = accepted / drafted"
    ),
    Column("last_drafted", "tokens", 255, "tokens drafted in its last round"),
    Column("last_accepted", "tokens", 255, "tokens accepted in its last round"),
    Column("window_acceptance", "ratio", 1, "accepted / drafted over its last rounds"),
    Column("window_spread", "ratio", 0.5, "standard deviation of the per-round rate over them"),
    Column("attained_s", "s", MAX_SECONDS, "attained service: duration of the rounds it was in"),
    Column("idle_s", "s", MAX_SECONDS, "time since its last round ended, or its arrival"),
    Column(
        "idle_rounds", "rounds", MAX_COUNT, "rounds run without it since then (since it got a slot)"
    ),
    Column("picked", "0/1", 1, "already picked for the next round"),
    Column("ran", "0/1", 1, "was in the last round"),
    Column("cached", "0/1", 1, "its key-value cache is on the device"),
    Column(
        "category", "index", MAX_COUNT, "task category, an index into the scenario's categories"
    ),
    Column("selectable", "0/1", 1, "may be picked now (the action mask, slot by slot)"),
    Column(
        "first_token_left_s",
        "s",
        MOST_LEFT_S,
        "time left to the limit of its first token; the upper bound without one, and behind it",
        -MOST_LEFT_S,
    ),
    Column(
        "next_token_left_s",
        "s",
        MOST_LEFT_S,
        "time left until its next token is late by the limit per token; the upper bound without "
        "one, and before the first",
        -MOST_LEFT_S,
    ),
    Column(
        "finish_left_s",
        "s",
        MOST_LEFT_S,
        "time left to the limit of its last token; the upper bound without one",
        -MOST_LEFT_S,
    ),
)

SERVER_COLUMNS = (
    Column("batch_size", "requests", MAX_COUNT, "most requests in one round"),
    Column(
        "draft_length", "tokens", 255, "draft length of the last round (the nominal one before)"
    ),
    Column("draft_step_s", "s", MAX_SECONDS, "measured duration of a draft step"),
    Column("verify_s", "s", MAX_SECONDS, "measured duration of a verification with overhead"),
    Column("free_cache_tokens", "tokens", MAX_COUNT, "room in the key-value pool, picks reserved"),
    Column("backlog", "requests", MAX_COUNT, "requests that have arrived but found no free slot"),
    Column("since_arrival_s", "s", MAX_SECONDS, "time since the latest arrival"),
    Column(
        "load_estimate", "ratio", MAX_COUNT, "rate of the last 32 arrivals / saturation throughput"
    ),
)

(
    OCCUPIED,
    ARRIVAL_NUMBER,
    WAITING_S,
    PROMPT_TOKENS,
    PREDICTED_TOKENS,
    GENERATED_TOKENS,
    ROUNDS,
    DRAFTED,
    ACCEPTED,
    LAST_DRAFTED,
    LAST_ACCEPTED,
    WINDOW_ACCEPTANCE,
    WINDOW_SPREAD,
    ATTAINED_S,
    IDLE_S,
    IDLE_ROUNDS,
    PICKED,
    RAN,
    CACHED,
    CATEGORY,
    SELECTABLE,
    FIRST_TOKEN_LEFT_S,
    NEXT_TOKEN_LEFT_S,
    FINISH_LEFT_S,
) = range(len(QUEUE_COLUMNS))

(
    BATCH_SIZE,
    DRAFT_LENGTH,
    DRAFT_STEP_S,
    VERIFY_S,
    FREE_CACHE_TOKENS,
    BACKLOG,
    SINCE_ARRIVAL_S,
    LOAD_ESTIMATE,
) = range(len(SERVER_COLUMNS))

#: Arrivals in the load estimate.
LOAD_WINDOW = 32


@inlined
def note_arrivals(server: Any, e: Episode) -> None:
    """Note the latest arrival, and the rate of those before it."""
    latest = server.arrived - 1
    server.latest_ns = e.requests[latest].arrival_ns
    gaps = min(LOAD_WINDOW, latest)
    span = server.latest_ns - e.requests[latest - gaps].arrival_ns
    server.load = 0.0
    if span > 0:
        rate = gaps / (span * 1e-9)
        server.load = min(rate / server.saturation_rps, MAX_COUNT)


@inlined
def show_admission(e: Episode, index: int, number: int) -> None:
    """Write the columns of a request that has got its slot."""
    request, row = e.requests[number], e.queue[index]
    row[OCCUPIED] = 1
    row[ARRIVAL_NUMBER] = number
    row[PROMPT_TOKENS] = request.prompt_tokens
    row[PREDICTED_TOKENS] = request.predicted_tokens
    row[CATEGORY] = request.category
    row[FIRST_TOKEN_LEFT_S] = row[NEXT_TOKEN_LEFT_S] = row[FINISH_LEFT_S] = MOST_LEFT_S


@inlined
def show_release(e: Episode, index: int) -> None:
    """Clear the row of a slot that its request has left."""
    e.queue[index] = 0


@inlined
def show_pick(e: Episode, index: int) -> None:
    """Write the column of a request that has joined the next round."""
    e.queue[index, PICKED] = 1


@inlined
def show_eviction(e: Episode, index: int) -> None:
    """Write the column of a request whose cache has left the device."""
    e.queue[index, CACHED] = 0


@inlined
def show_round_begin(e: Episode, index: int) -> None:
    """Write the column of a request, in the round or not, when a round begins."""
    e.queue[index, RAN] = 0


@inlined
def refresh_times(server: Any, e: Episode) -> None:
    """Write the columns that change by waiting."""
    now, rounds = server.now, server.rounds
    for k in range(server.active):
        index = np.uint64(e.active[k])
        hot = e.hot[index]
        row = e.queue[index]
        row[WAITING_S] = (now - hot.arrival_ns) * 1e-9
        row[IDLE_S] = (now - hot.served_at) * 1e-9
        row[IDLE_ROUNDS] = rounds - hot.served_round
    if server.limited == 1:
        for k in range(server.active):
            show_time_left(server, e, e.active[k])


@inlined
def show_time_left(server: Any, e: Episode, index: int) -> None:
    """Write the columns of a request's limits."""
    slot, row = e.slots[index], e.queue[index]
    request = e.requests[slot.request]
    row[FIRST_TOKEN_LEFT_S] = row[NEXT_TOKEN_LEFT_S] = MOST_LEFT_S
    if slot.rounds == 0 and request.ttft_limit_ns < NO_LIMIT:
        row[FIRST_TOKEN_LEFT_S] = time_left_s(server, request.arrival_ns + request.ttft_limit_ns)
    if slot.rounds > 0 and request.tpot_limit_ns < NO_LIMIT:
        due = request.first_token_ns + slot.generated * request.tpot_limit_ns
        row[NEXT_TOKEN_LEFT_S] = time_left_s(server, due)
    if request.e2e_limit_ns < NO_LIMIT:
        row[FINISH_LEFT_S] = time_left_s(server, request.arrival_ns + request.e2e_limit_ns)


@inlined
def time_left_s(server: Any, due: int) -> float:
    """Seconds until an instant, within the bounds that are shown."""
    return min(max((due - server.now) * 1e-9, -MOST_LEFT_S), MOST_LEFT_S)


@inlined
def fits(c: Any, server: Any, hot: Any) -> bool:
    """Whether an unpicked request can still join the round: batch and pool."""
    return (
        hot.picked == 0
        and server.picked < c.batch_size
        and server.reserved + hot.context + server.lookahead <= c.pool_tokens
    )


@inlined
def has_room_for_all(c: Any, server: Any) -> bool:
    """Whether all requests in slots fit the pool at once."""
    return server.wanted + server.active * server.lookahead <= c.pool_tokens


@inlined
def show_choices(c: Any, server: Any, e: Episode, mask: npt.NDArray[np.int8]) -> int:
    """Write the action mask and its column; returns how many requests may be picked."""
    mask[:] = 0
    choices = 0
    everyone = server.picked == 0 and has_room_for_all(c, server)
    for k in range(server.active):
        index = np.uint64(e.active[k])
        selectable = 1 if everyone or fits(c, server, e.hot[index]) else 0
        mask[index] = selectable
        e.queue[index, SELECTABLE] = selectable
        choices += selectable
    mask[-1] = 1 if server.picked > 0 or server.active == 0 else 0
    return choices


@inlined
def copy_table(server: Any, e: Episode, shown: npt.NDArray[np.float32]) -> None:
    """Copy the rows up to the last occupied slot; what lies behind it is zero, and not read."""
    rows = 0
    for k in range(server.active):
        rows = max(rows, e.active[k] + 1)
    for k in range(rows):
        for column in range(shown.shape[1]):
            shown[k, column] = e.queue[k, column]
    shown[rows:] = 0


@inlined
def show_server(c: Any, server: Any, e: Episode, view: npt.NDArray[np.float32]) -> None:
    """Write the columns of the server."""
    view[BATCH_SIZE] = c.batch_size
    view[DRAFT_LENGTH] = server.last_draft_length
    view[DRAFT_STEP_S] = server.draft_step_ns * 1e-9
    view[VERIFY_S] = server.verify_ns * 1e-9
    free = c.pool_tokens - server.held - server.reserved
    for k in range(server.picked):
        free += e.hot[e.batch[k]].context * e.slots[e.batch[k]].resident
    view[FREE_CACHE_TOKENS] = min(max(free, 0), MAX_COUNT)
    view[BACKLOG] = server.arrived - server.admitted
    view[LOAD_ESTIMATE] = server.load
    view[SINCE_ARRIVAL_S] = 0
    if server.arrived > 0:
        view[SINCE_ARRIVAL_S] = (server.now - server.latest_ns) * 1e-9


@inlined
def show_service(e: Episode, index: int) -> None:
    """Write the columns of a request that was in the last round."""
    row = e.queue[index]
    row[ATTAINED_S] = e.slots[index].attained_ns * 1e-9
    row[PICKED] = 0
    row[RAN] = 1
    row[CACHED] = 1


@inlined
def show_progress(e: Episode, index: int, drafted: int, accepted: int) -> None:
    """Write the columns that a round changes."""
    show_service(e, index)
    slot = e.slots[index]
    row = e.queue[index]
    row[GENERATED_TOKENS] = slot.generated
    row[ROUNDS] = slot.rounds
    row[DRAFTED] = slot.drafted
    row[ACCEPTED] = slot.accepted
    row[LAST_DRAFTED] = drafted
    row[LAST_ACCEPTED] = accepted
    row[WINDOW_ACCEPTANCE], row[WINDOW_SPREAD] = windowed_acceptance(
        e.window[index], min(slot.rounds, e.window.shape[1])
    )


@inlined
def show_refresh(server: Any, e: Episode, index: int) -> None:
    """Write the prediction of a request as it was refreshed last."""
    slot = e.slots[index]
    refreshes = slot.generated // server.refresh_every
    if refreshes > 0:
        latest = e.requests[slot.request].refresh_offset + refreshes - 1
        e.queue[index, PREDICTED_TOKENS] = e.refreshed_tokens[latest]


@inlined
def windowed_acceptance(window: npt.NDArray[Any], rounds: int) -> tuple[float, float]:
    """Acceptance over the window, accepted / drafted, and the deviation of the per-round rates.

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
