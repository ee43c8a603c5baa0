"""The requests of episodes as CSV, a line each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from laps_env.report.export import csv_text
from laps_env.report.timeline import Timeline
from laps_env.sim.metrics import has_limits, within_limits

_COLUMNS = (
    "policy",
    "request",
    "category",
    "arrival_s",
    "prompt_tokens",
    "output_tokens",
    "predicted_tokens",
    "first_token_s",
    "completion_s",
    "preemptions",
    "drafted",
    "accepted",
    "attained_s",
    "longest_idle_s",
    "longest_stall_s",
    "within_limits",
)


def request_table(timelines: Iterable[Timeline]) -> str:
    """The table: times in seconds, nothing where there is no such time or limit."""
    return csv_text(_COLUMNS, (line for timeline in timelines for line in _lines(timeline)))


def _lines(timeline: Timeline) -> Iterator[list[Any]]:
    requests = timeline.requests
    limited, within = has_limits(requests), within_limits(requests)
    for number, request in enumerate(requests):
        yield [
            timeline.title,
            number,
            timeline.categories[request["category"]],
            int(request["arrival_ns"]) / 1e9,
            request["prompt_tokens"],
            request["output_tokens"],
            float(request["predicted_tokens"]),
            int(request["first_token_ns"]) / 1e9 or None,  # an episode may have been cut
            int(request["completion_ns"]) / 1e9 or None,
            *(request[name] for name in ("preemptions", "drafted", "accepted")),
            *(int(request[f"{name}_ns"]) / 1e9 for name in ("attained", "longest_idle")),
            int(request["longest_stall_ns"]) / 1e9,
            bool(within[number]) if limited[number] else None,
        ]
