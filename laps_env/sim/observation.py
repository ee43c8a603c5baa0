"""The columns of an observation: names, units and bounds, in one place.

``QUEUE_COLUMNS`` describe ``observation["queue"]`` (a row per slot, zero where the slot is empty),
``SERVER_COLUMNS`` the entries of ``observation["server"]``. Rules and agents index by the constants
below, which the kernel compiles in: ``row[WAITING_S]``, ``server[VERIFY_S]``.
"""

from __future__ import annotations

from typing import NamedTuple

#: Bounds of what is unbounded in principle: counts are exact in float32 up to 2**24.
MAX_COUNT = 2.0**24
MAX_SECONDS = 1e9


class Column(NamedTuple):
    """One observed number: name, unit, upper bound (the lower one is 0) and meaning."""

    name: str
    unit: str
    high: float
    meaning: str


QUEUE_COLUMNS = (
    Column("occupied", "0/1", 1, "a request is in this slot"),
    Column("arrival_number", "count", MAX_COUNT, "position in the order of arrival, from 0"),
    Column("waiting_s", "s", MAX_SECONDS, "time since arrival"),
    Column("prompt_tokens", "tokens", MAX_COUNT, "length of the prompt"),
    Column(
        "predicted_tokens", "tokens", MAX_COUNT, "predicted output length (see predictor error)"
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
