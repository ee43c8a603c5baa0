"""The columns of an observation: names, units and bounds, in one place.

``QUEUE_COLUMNS`` describe ``observation["queue"]`` (a row per slot, zero where the slot is empty),
``SERVER_COLUMNS`` the entries of ``observation["server"]``. Rules and agents index by the constants
below, which the kernel compiles in: ``row[WAITING_S]``, ``server[VERIFY_S]``.
"""

from __future__ import annotations

from typing import NamedTuple

#: Bounds of what is unbounded in principle: counts are exact in float32 up to 2**24.
MOST = 2.0**24
LONGEST_S = 1e9


class Column(NamedTuple):
    """One observed number: name, unit, upper bound (the lower one is 0) and meaning."""

    name: str
    unit: str
    high: float
    meaning: str


QUEUE_COLUMNS = (
    Column("occupied", "0/1", 1, "a request is in this slot"),
    Column("arrival_number", "count", MOST, "position in the order of arrival, from 0"),
    Column("waiting_s", "s", LONGEST_S, "time since arrival"),
    Column("prompt_tokens", "tokens", MOST, "length of the prompt"),
    Column("predicted_tokens", "tokens", MOST, "predicted output length (see predictor error)"),
    Column("generated_tokens", "tokens", MOST, "output tokens committed so far"),
    Column("rounds", "rounds", MOST, "rounds that served the request"),
    Column("drafted", "tokens", MOST, "tokens drafted for it so far"),
    Column("accepted", "tokens", MOST, "drafted tokens accepted so far; A = accepted / drafted"),
    Column("last_drafted", "tokens", 255, "tokens drafted in its last round"),
    Column("last_accepted", "tokens", 255, "tokens accepted in its last round"),
    Column("window_acceptance", "ratio", 1, "accepted / drafted over its last rounds"),
    Column("window_spread", "ratio", 0.5, "standard deviation of the per-round rate over them"),
    Column("attained_s", "s", LONGEST_S, "attained service: duration of the rounds it was in"),
    Column("idle_s", "s", LONGEST_S, "time since its last round ended, or its arrival"),
    Column("idle_rounds", "rounds", MOST, "rounds run without it since then (since it got a slot)"),
    Column("picked", "0/1", 1, "already picked for the next round"),
    Column("ran", "0/1", 1, "was in the last round"),
    Column("cached", "0/1", 1, "its key-value cache is on the device"),
    Column("category", "index", MOST, "task category, an index into the scenario's categories"),
    Column("selectable", "0/1", 1, "may be picked now (the action mask, slot by slot)"),
)

SERVER_COLUMNS = (
    Column("batch_size", "requests", MOST, "most requests in one round"),
    Column(
        "draft_length", "tokens", 255, "draft length of the last round (the nominal one before)"
    ),
    Column("draft_step_s", "s", LONGEST_S, "measured duration of a draft step"),
    Column("verify_s", "s", LONGEST_S, "measured duration of a verification with overhead"),
    Column("free_cache_tokens", "tokens", MOST, "room in the key-value pool, picks reserved"),
    Column("backlog", "requests", MOST, "requests that have arrived but found no free slot"),
    Column("since_arrival_s", "s", LONGEST_S, "time since the latest arrival"),
    Column("load_estimate", "ratio", MOST, "rate of the last 32 arrivals / saturation throughput"),
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
