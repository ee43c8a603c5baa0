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

from pathlib import Path

import numpy as np

from laps_env.traces import AcceptanceTrace, TraceError, TraceInfo
from laps_env.traces.importers.records import Record, Sieve, read_records
from laps_env.traces.importers.runs import Fill, RecordedRequest, bernoulli_fill, build_trace
from laps_env.traces.schema import MAX_RUN

MAX_ACCEPTED = 254  # one less than the tokens a trace can hold per round


def import_vllm(
    path: str | Path,
    info: TraceInfo,
    *,
    plain_draft: bool,
    category: str = "unknown",
    fill: Fill = bernoulli_fill,
    seed: int = 0,
    sieve: Sieve | None = None,
) -> AcceptanceTrace:
    """Read responses, one JSON object per line, plain or gzip.

    plain_draft: the drafter is a model of its own under greedy decoding (see `runs`).
    category: the name of requests that do not bring their own.
    sieve: what becomes of bad lines; the first is an error by default.

    Raises TraceError naming the file, the line and the field.
    """
    path = Path(path)
    sieve = sieve or Sieve()
    requests: list[RecordedRequest] = []
    for number, record in enumerate(read_records(path, sieve)):
        try:
            requests.append(_request(record, category, number))
        except TraceError as error:
            sieve.bad(error)
    return build_trace(requests, info, plain_draft=plain_draft, fill=fill, seed=seed, path=path)


def _request(record: Record, category: str, number: int) -> RecordedRequest:
    usage = record.member("usage")
    metrics = record.member("metrics").member("speculative_decoding")
    tokens = usage.integer("completion_tokens", 1)
    accepted = metrics.integers("per_step_accepted", 0, MAX_ACCEPTED)
    if "per_step_drafted" in metrics.values:
        drafted = metrics.integers("per_step_drafted", 0, MAX_ACCEPTED)
    else:
        drafted = np.full(len(accepted), metrics.integer("num_spec_tokens", 1, MAX_RUN))
    if len(drafted) != len(accepted):
        metrics.fail("per_step_drafted", f"{len(accepted)} steps", len(drafted))
    if (excess := accepted > drafted).any():
        k = int(np.argmax(excess))
        metrics.fail(f"per_step_accepted[{k}]", f"at most {drafted[k]} drafted", int(accepted[k]))
    committed = np.concatenate([[1], accepted + 1])
    surplus = int(committed.sum()) - tokens
    if surplus < 0:
        metrics.fail(
            "per_step_accepted",
            f"steps that commit {tokens - 1} tokens after the first (a step that drafted nothing"
            " is not recorded, so its place is not known)",
            int(committed[1:].sum()),
        )
    if surplus >= committed[-1]:
        metrics.fail(
            "per_step_accepted",
            f"steps that end with the output of {tokens} tokens",
            int(committed.sum()),
        )
    committed[-1] -= surplus
    return RecordedRequest(
        category=record.text("category") if "category" in record.values else category,
        group=record.integer("group", 0) if "group" in record.values else number,
        prompt_tokens=usage.integer("prompt_tokens", 1),
        committed=committed,
        drafted=np.concatenate([[0], drafted]),
    )
