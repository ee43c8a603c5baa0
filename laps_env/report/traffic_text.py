"""What a recording's traffic is like, in words and a table."""

from __future__ import annotations

from laps_env.report.tables import text_table
from laps_env.report.verdict import told
from laps_env.traces import AcceptanceTrace
from laps_env.traces.summary import Drift, drift_of, summarize_trace

_HEADINGS = (
    "category",
    "requests",
    "prompt",
    "output",
    "sd of log output",
    "first draft accepted",
    "predictor bias",
    "predictor error",
)


def traffic_text(trace: AcceptanceTrace) -> str:
    """Lengths, acceptance and prediction errors by category, then what changed over the recording.

    Raises:
        TraceError: Fewer than four requests.
    """
    rows = [
        [
            found.name,
            found.requests,
            f"{found.prompt_tokens:.0f}",
            f"{found.output_tokens:.0f}",
            f"{found.output_log_sd:.2f}",
            f"{found.acceptance:.0%}",
            *(
                "n/a" if value is None else f"{value:+.2f}"
                for value in (found.predictor_bias, found.predictor_error)
            ),
        ]
        for found in summarize_trace(trace)
    ]
    changes = drift_of(trace)
    lines = [text_table(_HEADINGS, rows), "", "second half of the recording over the first:"]
    lines += [f"  {change.name}: {told(change.ratio, change.interval)}" for change in changes]
    return "\n".join([*lines, _said(changes)])


def _said(changes: list[Drift]) -> str:
    names = ", ".join(change.name for change in changes if change.told)
    if not names:
        return "no change is told from chance: one law for the whole recording will do"
    return f"changed: {names}: laws of the whole recording are of a mixture"
