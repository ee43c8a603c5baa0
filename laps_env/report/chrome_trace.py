"""Timelines as Chrome traces, which https://ui.perfetto.dev and chrome://tracing open.

A track per request (prefill, draft, verify, and why it waited), and counters of the server. Format:
"Trace Event Format" of the Chromium project, JSON object form; times in microseconds.
"""

from __future__ import annotations

from typing import Any

from laps_env.report.timeline import Round, Timeline, loads, waiting_spans

_REQUESTS, _SERVER = 1, 2


def chrome_trace(timeline: Timeline) -> dict[str, Any]:
    """The document, for `json.dumps`."""
    events = [_named("process_name", _REQUESTS, 0, f"requests, {timeline.title}")]
    events.append(_named("process_name", _SERVER, 0, "server"))
    for number, request in enumerate(timeline.requests):
        category = timeline.categories[int(request["category"])]
        events.append(_named("thread_name", _REQUESTS, number, f"{number} {category}"))
    for number, spans in enumerate(waiting_spans(timeline)):
        for start, end, served in spans:
            name = "pre-empted" if served else "waiting"
            events.append(_slice(name, number, start, end - start, {}))
    for start, in_system, batch in loads(timeline):
        events += [_counter("in the system", start, in_system), _counter("batch", start, batch)]
    drafted = accepted = 0
    for played in timeline.rounds:
        events += _phases(played)
        drafted += sum(turn.drafted for turn in played.turns)
        accepted += sum(turn.accepted for turn in played.turns)
        rate = accepted / max(drafted, 1)
        events.append(_counter("cached tokens", played.end_ns, played.cached_tokens))
        events.append(_counter("accepted / drafted", played.end_ns, rate))
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _phases(played: Round) -> list[dict[str, Any]]:
    """Phases of each request in a round: prefill or move of caches, draft, verify."""
    before = max(played.duration_ns - played.draft_ns - played.verify_ns, 0)
    moves = any(turn.computed or turn.moved for turn in played.turns)
    events = []
    for turn in played.turns:
        at = played.start_ns
        if moves:
            name = "prefill" if turn.computed else "restore" if turn.moved else "others' prefill"
            about = {"tokens": turn.computed or turn.moved}
            events.append(_slice(name, turn.request, at, before, about))
        at += before
        if turn.drafted:
            drafted = {"drafted": turn.drafted}
            events.append(_slice("draft", turn.request, at, played.draft_ns, drafted))
        at += played.draft_ns
        done = {"accepted": turn.accepted, "committed": turn.committed}
        events.append(_slice("verify", turn.request, at, played.end_ns - at, done))
    return events


def _named(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def _counter(name: str, at: int, value: float) -> dict[str, Any]:
    return {"ph": "C", "pid": _SERVER, "name": name, "ts": at / 1e3, "args": {name: value}}


def _slice(name: str, number: int, start: int, duration: int, about: dict[str, Any]) -> Any:
    return {
        "ph": "X",
        "pid": _REQUESTS,
        "tid": number,
        "name": name,
        "ts": start / 1e3,
        "dur": duration / 1e3,
        "args": about,
    }
