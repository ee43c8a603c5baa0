"""vLLM's per-request speculative metrics, one response object per line.

Since github.com/vllm-project/vllm/pull/48915 a server started with
`--per-request-spec-decode-metrics detailed` reports, in every response, `usage.prompt_tokens`,
`usage.completion_tokens` and under `metrics.speculative_decoding` (experimental there):
`num_spec_tokens` (k, the most tokens drafted per step), `per_step_accepted` and
`per_step_drafted` (accepted and proposed draft tokens of every verification step, without the
bonus token). Two more members are read here if the client adds them to the line: `category`
(a name) and `group` (an integer).

The first token comes with the prefill; it is read as a round that drafts nothing. A step that
drafted nothing is not among the verification steps, and the record does not say where it was: a
record with such steps is refused. The last step may commit more than the output holds; it is cut.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.importers.records import Id, LeftOut, OnError, Text, Tokens, parse_records
from laps_env.traces.importers.runs import Fill, RecordedRequest, bernoulli_fill, build_trace
from laps_env.traces.schema import MAX_RUN
from laps_env.utils.checks import check_count
from laps_env.utils.documents import convert

#: Accepted or drafted tokens of every step; one less than the tokens that a trace can hold.
_Steps = Annotated[list[Annotated[int, Meta(ge=0, le=MAX_RUN - 1)]], Meta(min_length=1)]


class _Usage(msgspec.Struct):
    prompt_tokens: Tokens
    completion_tokens: Tokens


class _Speculation(msgspec.Struct):
    per_step_accepted: _Steps
    per_step_drafted: _Steps = []
    num_spec_tokens: Any = None


class _Metrics(msgspec.Struct):
    speculative_decoding: _Speculation


class _Response(msgspec.Struct):
    usage: _Usage
    metrics: _Metrics
    category: Text = ""
    group: Id = -1


def import_vllm(
    path: str | Path,
    info: TraceInfo,
    *,
    plain_draft: bool,
    category: str = "unknown",
    fill: Fill = bernoulli_fill,
    seed: int = 0,
    on_error: OnError = "raise",
    left_out: LeftOut | None = None,
) -> AcceptanceTrace:
    """Read responses, one JSON object per line, plain or gzip.

    Args:
        path: File of responses.
        info: Origin of the run.
        plain_draft: Whether the drafter is a model of its own under greedy decoding (see `runs`).
        category: Name of requests that do not bring their own.
        fill: Function that draws what was not recorded.
        seed: Seed of the fill.
        on_error: Treatment of a malformed line: "raise" the error, or "skip" the line.
        left_out: Report, to which skipped lines are added.

    Raises:
        TraceError: A file or line that is not of the format; the message names the file, the line
            and the field.
        OSError: The file cannot be read.
    """
    path, numbers = Path(path), count()

    def parse(record: dict[str, Any]) -> RecordedRequest:
        return _request(record, category, next(numbers))

    requests = list(parse_records(path, parse, on_error=on_error, left_out=left_out))
    return build_trace(requests, info, plain_draft=plain_draft, fill=fill, seed=seed, path=path)


def _request(record: dict[str, Any], category: str, number: int) -> RecordedRequest:
    response = convert(record, _Response)
    place, steps = "metrics.speculative_decoding", response.metrics.speculative_decoding
    accepted = np.array(steps.per_step_accepted, np.int64)
    drafted = np.array(steps.per_step_drafted, np.int64)
    if not drafted.size:
        check_count(f"{place}.num_spec_tokens", steps.num_spec_tokens, most=MAX_RUN)
        drafted = np.full(len(accepted), steps.num_spec_tokens)
    if len(drafted) != len(accepted):
        raise ValueError(
            f"{place}.per_step_drafted: expected {len(accepted)} steps, got {len(drafted)}"
        )
    if (excess := accepted > drafted).any():
        k = int(np.argmax(excess))
        raise ValueError(
            f"{place}.per_step_accepted[{k}]: expected at most {drafted[k]} drafted, "
            f"got {accepted[k]}"
        )
    committed = np.concatenate([[1], accepted + 1])
    tokens = response.usage.completion_tokens
    surplus = int(committed.sum()) - tokens
    if surplus < 0:
        raise ValueError(
            f"{place}.per_step_accepted: expected steps that commit {tokens - 1} tokens after the "
            "first (a step that drafted nothing is not recorded, so its place is not known), "
            f"got {committed[1:].sum()}"
        )
    if surplus >= committed[-1]:
        raise ValueError(
            f"{place}.per_step_accepted: expected steps that end with the output of {tokens} "
            f"tokens, got {committed.sum()}"
        )
    committed[-1] -= surplus
    return RecordedRequest(
        category=response.category or category,
        group=number if response.group < 0 else response.group,
        prompt_tokens=response.usage.prompt_tokens,
        committed=committed,
        drafted=np.concatenate([[0], drafted]),
    )
