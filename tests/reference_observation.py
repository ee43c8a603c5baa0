"""Observation of the reference simulator: its columns, in order, from the state of the server."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reference import ReferenceServer
    from reference_request import Request

SECONDS = 1e-9
LOAD_WINDOW = 32  # inter-arrival times behind the load estimate
NO_LIMIT = 2**62  # in nanoseconds
UNLIMITED = 3600.0  # what is shown where there is no limit, and the bound of what is

QUEUE = (
    "occupied", "arrival_number", "waiting_s", "prompt_tokens", "predicted_tokens",
    "generated_tokens", "rounds", "drafted", "accepted", "last_drafted", "last_accepted",
    "window_acceptance", "window_spread", "attained_s", "idle_s", "idle_rounds", "picked", "ran",
    "cached", "category", "selectable", "first_token_left_s", "next_token_left_s", "finish_left_s",
)  # fmt: skip
SERVER = (
    "batch_size", "draft_length", "draft_step_s", "verify_s", "free_cache_tokens", "backlog",
    "since_arrival_s", "load_estimate",
)  # fmt: skip


def queue_row(server: ReferenceServer, request: Request | None) -> list[float]:
    """The columns of QUEUE for one slot, all zero when it is empty."""
    if request is None:
        return [0.0] * len(QUEUE)
    history = request.history
    window = history[-server.server.acceptance_window :]
    last_drafted, last_accepted = history[-1] if history else (0, 0)
    ran_before = bool(history)
    columns = {
        "occupied": 1.0,
        "arrival_number": request.number,
        "waiting_s": (server.now - request.arrival_ns) * SECONDS,
        "prompt_tokens": request.prompt,
        "predicted_tokens": request.predicted,
        "generated_tokens": request.generated,
        "rounds": len(history),
        "drafted": sum(drafted for drafted, _ in history),
        "accepted": sum(accepted for _, accepted in history),
        "last_drafted": last_drafted,
        "last_accepted": last_accepted,
        "window_acceptance": _acceptance(window),
        "window_spread": _spread(window),
        "attained_s": request.attained_ns * SECONDS,
        "idle_s": (server.now - (request.last_end_ns if ran_before else request.arrival_ns))
        * SECONDS,
        "idle_rounds": server.rounds
        - (request.last_round if ran_before else request.rounds_at_entry),
        "picked": request in server.picked,
        "ran": ran_before and request.last_round == server.rounds,
        "cached": request.resident,
        "category": request.category,
        "selectable": request.slot in server.selectable(),
        "first_token_left_s": _left(server, request, 0, 0) if not history else UNLIMITED,
        "next_token_left_s": _left(server, request, 1, request.generated) if history else UNLIMITED,
        "finish_left_s": _left(server, request, 2, 0),
    }
    return [float(columns[name]) for name in QUEUE]


def _left(server: ReferenceServer, request: Request, which: int, tokens: int) -> float:
    """Time left to a limit: from arrival, or so many times from the first token."""
    if request.limits_ns is None or request.limits_ns[which] >= NO_LIMIT:
        return UNLIMITED
    limit = request.limits_ns[which]
    due = request.first_token_ns + tokens * limit if which == 1 else request.arrival_ns + limit
    return max(-UNLIMITED, min((due - server.now) * SECONDS, UNLIMITED))


def server_row(server: ReferenceServer) -> list[float]:
    """The columns of SERVER."""
    held = sum(r.context for r in server.in_slots() if r.resident and r not in server.picked)
    reserved = sum(r.context + server.lookahead for r in server.picked)
    columns = {
        "batch_size": server.server.batch_size,
        "draft_length": server.last_draft_length,
        "draft_step_s": server.draft_step_s,
        "verify_s": server.verify_s,
        # The look-ahead of the picked may be promised to requests that are still to be evicted.
        "free_cache_tokens": max(server.server.pool_tokens - held - reserved, 0),
        "backlog": len(server.backlog),
        "since_arrival_s": _since_arrival_s(server),
        "load_estimate": _load(server),
    }
    return [float(columns[name]) for name in SERVER]


def _acceptance(window: list[tuple[int, int]]) -> float:
    drafted = sum(d for d, _ in window)
    return sum(a for _, a in window) / drafted if drafted > 0 else 0.0


def _spread(window: list[tuple[int, int]]) -> float:
    """Population standard deviation of the acceptance per round, over rounds that drafted."""
    rates = [accepted / drafted for drafted, accepted in window if drafted > 0]
    if not rates:
        return 0.0
    mean = sum(rates) / len(rates)
    return sqrt(sum((rate - mean) ** 2 for rate in rates) / len(rates))


def _since_arrival_s(server: ReferenceServer) -> float:
    if server.arrived == 0:
        return 0.0
    return (server.now - server.requests[server.arrived - 1].arrival_ns) * SECONDS


def _load(server: ReferenceServer) -> float:
    """Arrivals per second over the last inter-arrival times, as a share of saturation."""
    latest = server.arrived - 1
    count = min(LOAD_WINDOW, latest)
    if count < 1:
        return 0.0
    span = server.requests[latest].arrival_ns - server.requests[latest - count].arrival_ns
    load = count / (span * SECONDS) / server.saturation_rps if span > 0 else 0.0
    return min(load, 2.0**24)  # the bound of the observation
