"""Acceptance traces: the file format, and importers from other projects' files."""

from laps_env.traces.schema import TraceError, TraceInfo
from laps_env.traces.trace import AcceptanceTrace, acceptance_counts

__all__ = ["AcceptanceTrace", "TraceError", "TraceInfo", "acceptance_counts"]
