"""Recorded arrivals: request traces, logs and results of benchmarks.

- Azure, 2023 and 2024: CSV with TIMESTAMP, ContextTokens, GeneratedTokens
  (github.com/Azure/AzurePublicDataset, AzureLLMInferenceTrace_*.csv).
- BurstGPT: CSV with Timestamp (seconds), "Request tokens", "Response tokens"
  (github.com/HPMLL/BurstGPT); a response of 0 tokens is a request that failed.
- Vidur: CSV with arrived_at (seconds), num_prefill_tokens, num_decode_tokens
  (github.com/microsoft/vidur, data/processed_traces).
- Any CSV whose columns are named by the caller.
- Mooncake: JSONL with timestamp (milliseconds), input_length, output_length
  (github.com/kvcache-ai/Mooncake, FAST25-release/traces). As AIPerf reads it, a later turn of a
  session_id may have a delay in place of its timestamp: it is placed that long after the arrival
  of the turn before.
- Bailian: as Mooncake's, but timestamp in seconds; told by its chat_id
  (github.com/alibaba-edu/qwen-bailian-usagetraces-anon).
- AIPerf: profile_export.jsonl (github.com/ai-dynamo/aiperf), of every record
  metadata.request_start_ns, metrics.input_sequence_length and metrics.output_sequence_length.
- vLLM's benchmark: the JSON object of `vllm bench serve --save-result --save-detailed`, of which
  start_times (seconds), input_lens, output_lens and errors.
- Step logs (`laps_env.traces.step_log`): the requests that have left the server, in order of
  arrival, with what an aborted one came to.

All plain or gzip; JSON lines may be entries of one array. Times of the calendar have up to nine
decimals, which are kept exactly, and one time zone. GuideLLM's replay reads Mooncake's columns in
seconds, and nothing in such a file says so: the caller has to.
"""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laps_env.traces.arrival_trace import ArrivalTrace
from laps_env.traces.importers.arrival_csv import csv_format
from laps_env.traces.importers.arrival_format import NAMELESS, Format, Request
from laps_env.traces.importers.arrival_json import json_format
from laps_env.traces.importers.arrival_times import UNIT_NS, Unit
from laps_env.traces.importers.records import LeftOut, NoTokensError, OnError, parse_records, placed
from laps_env.traces.importers.step_lines import LogLines, is_step_log
from laps_env.traces.importers.unpacked import first_line
from laps_env.traces.schema import TraceError
from laps_env.traces.step_log import LeftRequest, RunHeader
from laps_env.utils.checks import check_one_of

__all__ = ["PLAUSIBLE_RPS", "Unit", "read_arrivals"]

#: Requests per second that a recording of one service has on average. All public ones are well
#: inside (0.3 to 7), and leave it when seconds and milliseconds are taken for each other.
PLAUSIBLE_RPS = (0.01, 50.0)

#: Longest time without a request that is nothing to warn of: a day.
PLAUSIBLE_GAP_NS = 86_400 * 10**9


def read_arrivals(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    unit: Unit | None = None,
    sort: bool = False,
    on_error: OnError = "raise",
    on_failed: OnError = "raise",
    left_out: LeftOut | None = None,
) -> ArrivalTrace:
    """Read any of the formats, told apart by what the file holds.

    Requests are kept in 32 bytes each, or 40 where they have names of their own. Warns of a mean
    rate outside `PLAUSIBLE_RPS`, where the unit of the times may be another, and of a gap of more
    than a day. Records of AIPerf and of vLLM's benchmark, which are in another order, and turns
    that were placed by a delay are sorted.

    Args:
        path: File of one of the formats, plain or gzip.
        columns: Names of the columns of another CSV, by ``arrival``, ``prompt``, ``output`` and,
            where requests have names that must not be repeated, ``id``.
        unit: Unit of the times; None = the format's own (see the module), of another CSV seconds.
            Times of the calendar have none, nor have those of AIPerf, vLLM and step logs.
        sort: Whether requests are put in order of arrival, where the file's order is another.
        on_error: Treatment of a malformed line, one before a line above in time or with a repeated
            name among them: "raise" the error, or "skip" the line.
        on_failed: Treatment of a request without prompt or output, likewise.
        left_out: Report, to which skipped lines and what was assumed are added.

    Raises:
        TraceError: Missing columns, a line that is not skipped, or no request at all; the message
            names the file, the line and the column.
        ValueError: Another unit or other columns, or some for a format that has its own.
        OSError: The file cannot be read.
    """
    path, left_out = Path(path), LeftOut() if left_out is None else left_out
    if unit is not None:
        check_one_of("unit", unit, UNIT_NS)
    errors: dict[str, Any] = {"on_error": on_error, "left_out": left_out}
    if is_step_log(path):
        if unit is not None or columns is not None:
            given = f"{unit!r}" if columns is None else f"{dict(columns)}"
            raise ValueError(f"unit: expected none for a step log's seconds, got {given}")
        logged = _logged_requests(path, on_failed=on_failed, **errors)
        return _trace(path, "a step log", np.array(logged, np.int64))
    form = _format_of(path, columns, unit)
    requests = form.requests(on_failed=on_failed, **errors)
    table = _in_order(path, form, _table(form, requests), sort=sort, **errors)
    left_out.assumed += form.assumed()
    _check_gaps(path, form, table)
    trace = _trace(path, form.name, table)
    if form.any_unit:
        _check_rate(path, trace.arrival_ns)
    return trace


def _format_of(path: Path, columns: Mapping[str, str] | None, unit: Unit | None) -> Format:
    if not first_line(path).startswith((b"{", b"[")):
        return csv_format(path, columns, unit)
    if columns is not None:
        raise ValueError(f"columns: expected none for JSON, got {dict(columns)}")
    return json_format(path, unit)


def _table(form: Format, requests: Iterable[tuple[int, Request]]) -> NDArray[np.int64]:
    """Requests [R, 4 or 5]: arrival, prompt, output, number of the line, hash of the name."""
    width = 4 if form.identity is None else 5
    flat = array("q")
    for number, (time, prompt, output, name) in requests:
        flat.extend((time, prompt, output, number, name)[:width])
    return np.frombuffer(flat, np.int64).reshape(-1, width)


def _trace(path: Path, form: str, table: NDArray[np.int64]) -> ArrivalTrace:
    times, prompts, outputs = (np.ascontiguousarray(table[:, k]) for k in range(3))
    times -= times[0]
    return ArrivalTrace(times, prompts, outputs, path.name, form)


def _in_order(
    path: Path,
    form: Format,
    table: NDArray[np.int64],
    *,
    sort: bool,
    on_error: OnError,
    left_out: LeftOut,
) -> NDArray[np.int64]:
    """The requests in order of arrival, none of them twice."""

    def without(bad: NDArray[np.bool_], reason: Callable[[int], str]) -> NDArray[np.int64]:
        for i in map(int, np.flatnonzero(bad)):
            message = placed(path, f"{form.place} {table[i, 3]}", reason(i))
            if on_error == "raise":
                raise TraceError(message)
            left_out.add("malformed", message)
        return table[~bad] if bad.any() else table

    if form.identity is not None:
        expected = f"{form.identity}: expected one that no {form.place} above has, got it again"
        table = without(_repeated(table[:, 4]), lambda _: expected)
    if sort or not form.ordered():
        return table[np.argsort(table[:, 0], kind="stable")]
    latest = np.maximum.accumulate(table[:, 0])
    return without(
        table[:, 0] < latest,
        lambda i: (
            f"{form.time}: expected a time not before the {form.place} above, got "
            f"{latest[i] - table[i, 0]} ns before it (`laps-env import arrivals --sort`)"
        ),
    )


def _repeated(names: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a name [R] was seen before; the nameless are all different."""
    order = np.argsort(names, kind="stable")
    ordered = names[order]
    again = np.zeros(len(names), bool)
    again[order[1:]] = (ordered[1:] == ordered[:-1]) & (ordered[1:] != NAMELESS)
    return again


def _check_gaps(path: Path, form: Format, table: NDArray[np.int64]) -> None:
    """Warn of times without a request for days, as between two recordings in one file."""
    gaps = np.diff(table[:, 0])
    long = np.flatnonzero(gaps > PLAUSIBLE_GAP_NS)
    if long.size:
        first = long[0]
        warnings.warn(
            f"{path}: {form.place} {table[first + 1, 3]}, {form.time}: expected a request within a "
            f"day of the one before, got {gaps[first] / PLAUSIBLE_GAP_NS:.1f} days, and "
            f"{long.size - 1} more such gaps",
            stacklevel=3,
        )


def _check_rate(path: Path, times: NDArray[np.int64]) -> None:
    """Warn of a mean rate that says that the times are in another unit."""
    gaps, seconds = len(times) - 1, times[-1] * 1e-9
    least, most = PLAUSIBLE_RPS
    if not least * seconds <= gaps <= most * seconds:
        warnings.warn(
            f"{path}: expected {least:g}..{most:g} requests a second, got {gaps + 1} in "
            f"{seconds:g} s: are the times in another unit? (`laps-env import arrivals --unit`)",
            stacklevel=3,
        )


def _logged_requests(path: Path, **errors: Any) -> list[tuple[int, int, int]]:
    """Requests of a step log by their arrivals, those of a server that started again behind."""
    lines, servers = LogLines(), list[list[tuple[int, int, int]]]()

    def parse(record: dict[str, Any]) -> None:
        line = lines.parse(record)
        if isinstance(line, RunHeader):
            servers.append([])
        elif isinstance(line, LeftRequest):
            if line.output_tokens == 0:
                place = "request.output_tokens"
                raise NoTokensError("output", f"{place}: expected an integer >= 1, got 0")
            time_ns = round(line.arrival_s * 1e9)
            servers[-1].append((time_ns, line.prompt_tokens, line.output_tokens))

    for _ in parse_records(path, parse, on_cut="skip", **errors):
        pass  # parsed into `servers`
    requests = [request for server in servers for request in sorted(server)]
    if not requests:
        raise TraceError(f"{path}: expected at least one request, got none")
    if min(later[0] - before[0] for before, later in pairwise([requests[0], *requests])) < 0:
        raise TraceError(
            f"{path}: request.arrival_s: expected one clock for all servers of the log, got one "
            "that starts again: import each server's lines from a file of their own"
        )
    return requests
