"""vLLM's per-request speculative metrics, one response object per line.

Since github.com/vllm-project/vllm/pull/48915 a server started with
`--per-request-spec-decode-metrics detailed` reports, in every response, `usage.prompt_tokens`,
`usage.completion_tokens` and under `metrics.speculative_decoding` (experimental there):
`num_spec_tokens` (k, the most tokens drafted per step), `per_step_accepted` and
`per_step_drafted` (accepted and proposed draft tokens of every verification step, without the
bonus token). Two more members are read here if the client adds them to the line: `category`
(a name) and `group` (an integer).

A line holds the response as it came, the last event of a stream (`data: {...}`), a proxy's capture
(`{"data": {...}}`), or what speculators' evaluation writes to `raw_requests.jsonl`:
`prompt_tokens`, and the speculative metrics themselves under `metrics`. The last says no output
length; what the steps committed is taken for it, up to a step too long where the end cut the last.
Records of AIPerf of such a server are read by `aiperf`: of their steps it takes the totals.

The first token comes with the prefill; it is read as a round that drafts nothing, and an answer of
one token has no other. A step that drafted nothing is not among the verification steps, and the
record does not say where it was: a record with such steps is refused. The last step may commit
more than the output holds; it is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.importers.records import (
    Id,
    LeftOut,
    OnError,
    Paths,
    Text,
    Tokens,
    file_category,
    read_files,
)
from laps_env.traces.importers.runs import Fill, RecordedRequest, bernoulli_fill, build_trace
from laps_env.traces.schema import MAX_RUN
from laps_env.utils.documents import convert

#: Accepted or drafted tokens of every step; one less than the tokens that a trace can hold.
_Steps = list[Annotated[int, Meta(ge=0, le=MAX_RUN - 1)]] | None


class _Usage(msgspec.Struct):
    prompt_tokens: Tokens
    completion_tokens: Tokens | None


class _Speculation(msgspec.Struct):
    per_step_accepted: _Steps = None
    per_step_drafted: _Steps = None
    num_spec_tokens: Annotated[int, Meta(ge=0, le=MAX_RUN)] | None = None


class _Metrics(msgspec.Struct):
    speculative_decoding: _Speculation | None = None


class _Response(msgspec.Struct):
    usage: _Usage
    metrics: _Metrics | None = None
    model: Text | None = None
    category: Text | None = None
    group: Id | None = None


def import_vllm(
    paths: Paths,
    info: TraceInfo,
    *,
    plain_draft: bool,
    category: str | None = None,
    fill: Fill = bernoulli_fill,
    seed: int = 0,
    on_error: OnError = "raise",
    left_out: LeftOut | None = None,
) -> AcceptanceTrace:
    """Read responses, one JSON object per line, plain or gzip.

    Args:
        paths: File of responses, or several of one run.
        info: Origin of the run.
        plain_draft: Whether the drafter is a model of its own under greedy decoding (see `runs`).
        category: Category of requests that do not bring their own; None = the file's name.
        fill: Function that draws what was not recorded.
        seed: Seed of the fill.
        on_error: Treatment of a malformed line: "raise" the error, or "skip" the line.
        left_out: Report, to which skipped lines are added.

    Raises:
        TraceError: A file or line that is not of the format, or requests of different models or
            draft lengths; the message names the file, the line and the field.
        OSError: The file cannot be read.
    """
    files = read_files(
        paths,
        lambda path: _Reader(category or file_category(path)).requests,
        on_error=on_error,
        left_out=left_out,
    )
    return build_trace(files, info, plain_draft=plain_draft, fill=fill, seed=seed)


@dataclass
class _Reader:
    """Reader of one file's lines."""

    category: str
    read: int = 0

    def requests(self, record: dict[str, Any]) -> list[RecordedRequest]:
        """The one request of a line, in any of its forms."""
        response = convert(_as_response(record), _Response)
        metrics = response.metrics.speculative_decoding if response.metrics else None
        steps = metrics or _Speculation()
        committed, drafted = _rounds(steps, response.usage.completion_tokens)
        run = {"model": response.model, "num_spec_tokens": steps.num_spec_tokens}
        self.read += 1
        return [
            RecordedRequest(
                category=response.category or self.category,
                group=self.read - 1 if response.group is None else response.group,
                prompt_tokens=response.usage.prompt_tokens,
                run={name: value for name, value in run.items() if value is not None},
                committed=committed,
                drafted=drafted,
            )
        ]


def _as_response(record: dict[str, Any]) -> dict[str, Any]:
    """The response in a line: itself, in a proxy's capture, or as `raw_requests.jsonl` has it."""
    if isinstance(record.get("data"), dict):
        record = record | record["data"]
    if "usage" in record or "prompt_tokens" not in record:
        return record
    usage = {"prompt_tokens": record["prompt_tokens"], "completion_tokens": None}
    return record | {"usage": usage, "metrics": {"speculative_decoding": record.get("metrics")}}


def _rounds(steps: _Speculation, tokens: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens committed and drafted by each round, that of the prefill first.

    Args:
        steps: Metrics of a response.
        tokens: Output length, None = what the steps commit.

    Raises:
        ValueError: Steps that do not make an output of that length.
    """
    place = "metrics.speculative_decoding"
    if steps.per_step_accepted is None and tokens != 1:
        expected = "the steps of an answer (`--per-request-spec-decode-metrics detailed`)"
        raise ValueError(f"{place}.per_step_accepted: expected {expected}, got none")
    accepted = np.array(steps.per_step_accepted or [], np.int64)
    drafted = np.array(steps.per_step_drafted or [], np.int64)
    if accepted.size and not drafted.size:
        if steps.num_spec_tokens is None:
            expected = "draft lengths, here or in per_step_drafted"
            raise ValueError(f"{place}.num_spec_tokens: expected {expected}, got none")
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
    total = int(committed.sum())
    length = total if tokens is None else tokens
    if length > total:
        raise ValueError(
            f"{place}.per_step_accepted: expected steps that commit {length - 1} tokens after the "
            "first (a step that drafted nothing is not recorded, so its place is not known), "
            f"got {total - 1}"
        )
    if total - length >= committed[-1]:
        raise ValueError(
            f"{place}.per_step_accepted: expected steps that end with the output of {length} "
            f"tokens, got {total}"
        )
    committed[-1] -= total - length
    return committed, np.concatenate([[0], drafted])
