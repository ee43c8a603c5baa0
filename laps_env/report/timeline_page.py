"""Timelines on the same workload side by side: one self-contained page, Chrome traces beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from laps_env.report.chrome_trace import chrome_trace
from laps_env.report.page import filled_page
from laps_env.report.timeline import Timeline, loads, waiting_spans
from laps_env.utils.files import write_beside

#: Requests that a page shows; of more, the first ones.
MOST_REQUESTS = 400


def comparison_page(timelines: list[Timeline], title: str) -> str:
    """The page: a panel per timeline, one clock for all; it loads nothing.

    Raises:
        ValueError: No timeline, or timelines of different requests.
    """
    if not timelines:
        raise ValueError("timelines: expected at least one, got none")
    first = timelines[0].requests
    for other in timelines[1:]:
        if not _same(first, other.requests):
            raise ValueError(
                f"timelines: expected the requests of {timelines[0].title}, got others in "
                f"{other.title}"
            )
    document = {
        "title": title,
        "shown": min(first.size, MOST_REQUESTS),
        "requests": first.size,
        "panels": [_panel(timeline) for timeline in timelines],
    }
    return filled_page("timeline.html", document)


def _same(one: Any, other: Any) -> bool:
    # Not their outputs: on a live server arithmetic, and with it a text, may depend on the batch.
    given = ["arrival_ns", "prompt_tokens", "category"]
    return one.size == other.size and all((one[name] == other[name]).all() for name in given)


def _panel(timeline: Timeline) -> dict[str, Any]:
    """What the page needs of a timeline; times in seconds."""
    requests = timeline.requests[:MOST_REQUESTS]
    starts, ends = requests["arrival_ns"], requests["completion_ns"]
    last = int(ends.max()) if (ends > 0).all() else timeline.end_ns
    latency = (np.where(ends > 0, ends, last) - starts)[starts <= last]
    return {
        "title": timeline.title,
        "end": last / 1e9,
        "mean_latency": float(latency.sum()) / max(latency.size, 1) / 1e9,
        "requests": [
            {
                "category": timeline.categories[int(request["category"])],
                "arrival": int(request["arrival_ns"]) / 1e9,
                "end": int(request["completion_ns"]) / 1e9 or None,
                "prompt": int(request["prompt_tokens"]),
                "output": int(request["output_tokens"]),
                "predicted": round(float(request["predicted_tokens"])),
                "preemptions": int(request["preemptions"]),
                "served": served,
                "waited": [[start / 1e9, end / 1e9, int(again)] for start, end, again in waited],
            }
            for request, served, waited in zip(
                requests, _served_spans(timeline), waiting_spans(timeline), strict=False
            )
        ],
        "queue": [[at / 1e9, *counts] for at, *counts in loads(timeline) if at <= last],
    }


def _served_spans(timeline: Timeline) -> list[list[list[float]]]:
    """Rounds of each request, those without a pause as one.

    Each is [start, end, tokens before, tokens after, drafted, accepted], the last two so far.
    """
    spans: list[list[list[float]]] = [[] for _ in timeline.requests]
    totals = [[0, 0, 0] for _ in timeline.requests]
    for played in timeline.rounds:
        start, end = played.start_ns / 1e9, played.end_ns / 1e9
        for turn in played.turns:
            own, total = spans[turn.request], totals[turn.request]
            if not own or own[-1][1] != start:
                own.append([start, end, total[0], total[0], 0, 0])
            total[0] += turn.committed
            total[1] += turn.drafted
            total[2] += turn.accepted
            own[-1][1], own[-1][3:] = end, total
    return spans


def file_name(text: str) -> str:
    """A name as a part of a file's name, which leads to no other folder."""
    return re.sub(r"[^\w.+-]", "-", text)


def trace_path(page: Path, policy: str) -> Path:
    """Where the Chrome trace of a policy lies, beside the page."""
    return page.with_name(f"{page.stem}-{file_name(policy)}.trace.json")


def write_timelines(timelines: list[Timeline], page: Path, title: str) -> list[Path]:
    """Write the page and the traces; their paths.

    Args:
        timelines: Timelines of the same requests, each with its policy's name as title.
        page: Path of the HTML file.
        title: Title of the page.

    Raises:
        ValueError: No timeline, or timelines of different requests.
        OSError: A file cannot be written.
    """
    text = comparison_page(timelines, title)
    traces = [trace_path(page, timeline.title) for timeline in timelines]
    for path, timeline in zip(traces, timelines, strict=True):
        write_beside(path, [json.dumps(chrome_trace(timeline)).encode()])
    write_beside(page, [text.encode()])
    return [page, *traces]
