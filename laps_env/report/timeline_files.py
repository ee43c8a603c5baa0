"""A comparison page, with a Chrome trace of each of its timelines beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from laps_env.report.chrome_trace import chrome_trace
from laps_env.report.timeline import Timeline
from laps_env.report.timeline_page import comparison_page
from laps_env.utils.files import check_output, write_beside


def trace_path(page: Path, policy: str) -> Path:
    """Where the Chrome trace of a policy lies, beside the page."""
    plain = re.sub(r"[^\w.+-]", "-", policy)
    return page.with_name(f"{page.stem}-{plain}.trace.json")


def check_timelines(page: Path, policies: list[str], *inputs: Path | None) -> None:
    """Whether page and traces can be written, before anything is recorded.

    Args:
        page: an HTML file.
        policies: names, of which each has a trace.
        inputs: files that are read, which none may replace.

    Raises:
        ValueError: one of them cannot, or two are the same file.
    """
    paths = [page, *(trace_path(page, name) for name in policies)]
    for path in paths:
        check_output(path, *inputs)
    if len(set(paths)) < len(paths):
        raise ValueError(
            f"policies: expected a trace for each, got the same for some of {policies}"
        )


def write_timelines(timelines: list[Timeline], page: Path, title: str) -> list[Path]:
    """Write the page and the traces; their paths.

    Args:
        timelines: of the same requests, each with its policy's name as title.
        page: an HTML file.
        title: what was served.

    Raises:
        ValueError: no timeline, or timelines of different requests.
        OSError: a file cannot be written.
    """
    text = comparison_page(timelines, title)
    traces = [trace_path(page, timeline.title) for timeline in timelines]
    for path, timeline in zip(traces, timelines, strict=True):
        write_beside(path, [json.dumps(chrome_trace(timeline)).encode()])
    write_beside(page, [text.encode()])
    return [page, *traces]
