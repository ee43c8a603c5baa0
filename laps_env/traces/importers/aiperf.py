"""AIPerf's records, which count the rounds of an answer.

github.com/ai-dynamo/aiperf, `profile_export.jsonl`: a record has `metadata`, `metrics` and `error`.
Where the server reports its speculation, `spec_decode_acceptance` (of `--export-level records`) has
`num_spec_steps`, `num_accepted_draft_tokens` and `num_spec_tokens`; without it the metrics
`spec_decode_steps` and `spec_decode_accepted_draft_tokens` say the first two. The lengths are the
metrics `input_sequence_length` and `output_sequence_length`. An answer of one token needs no
rounds. What each round committed is not read, and the trace is filled (see `totals`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.importers.arrival_times import tokens
from laps_env.traces.importers.records import (
    LeftOut,
    NoTokensError,
    OnError,
    Paths,
)
from laps_env.traces.importers.runs import Fill, bernoulli_fill
from laps_env.traces.importers.totals import (
    MOST_COUNTED,
    Count,
    Counted,
    CountedReader,
    import_counted,
)
from laps_env.utils.checks import check_count
from laps_env.utils.documents import convert, shown


class _Acceptance(msgspec.Struct):
    num_spec_steps: Count
    num_accepted_draft_tokens: Count
    num_spec_tokens: Count | None = None


class Profiled(msgspec.Struct):
    """A record: of its metadata, what the importers read.

    Attributes:
        metadata: Times and names.
        metrics: Measurements, each plain or as `value` beside its `unit`.
        error: What went wrong, None without an error.
        spec_decode_acceptance: Rounds of the answer.
    """

    metadata: dict[str, Any]
    metrics: dict[str, Any]
    error: Any = None
    spec_decode_acceptance: _Acceptance | None = None

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of prompt and output.

        Raises:
            NoTokensError: A request that failed, or a length of 0.
            ValueError: A length that is missing or no integer.
        """
        if self.error is not None:
            raise NoTokensError("output", f"error: expected none, got {shown(self.error)}")
        return (
            tokens("prompt", *_metric(self.metrics, "input_sequence_length")),
            tokens("output", *_metric(self.metrics, "output_sequence_length")),
        )


def _metric(metrics: Mapping[str, Any], name: str) -> tuple[str, Any]:
    """Place and value of a metric, plain or beside its unit; None where it is missing."""
    value = metrics.get(name)
    return f"metrics.{name}", value.get("value") if isinstance(value, dict) else value


def import_aiperf(
    paths: Paths,
    info: TraceInfo,
    *,
    draft_length: int,
    category: str | None = None,
    fill: Fill = bernoulli_fill,
    seed: int = 0,
    on_error: OnError = "raise",
    left_out: LeftOut | None = None,
) -> AcceptanceTrace:
    """Read records, one JSON object per line, plain or gzip.

    Args:
        paths: File of records, or several of one run.
        info: Origin of the run.
        draft_length: Most draft tokens that a round can accept, 1 .. 255; where the records say
            `num_spec_tokens`, they have to agree.
        category: Category of all requests; None = the file's name.
        fill: Function that draws what was not recorded.
        seed: Seed of the fill.
        on_error: Treatment of a malformed line: "raise" the error, or "skip" the line.
        left_out: Report, to which skipped lines and requests that failed are added.

    Raises:
        TraceError: A file or line that is not of the format; the message names the file, the line
            and the field.
        ValueError: Another draft length.
        OSError: A file cannot be read.
    """
    return import_counted(
        _Reader,
        paths,
        info,
        draft_length=draft_length,
        category=category,
        fill=fill,
        seed=seed,
        on_error=on_error,
        left_out=left_out,
    )


class _Reader(CountedReader):
    def counts(self, record: dict[str, Any]) -> Counted:
        """What a record says."""
        profiled = convert(record, Profiled)
        prompt, output = profiled.lengths
        check_count("metrics.output_sequence_length", output, most=MOST_COUNTED)
        place, rounds, accepted = self._counts(profiled, output)
        return Counted(place, prompt, output, rounds, accepted)

    def _counts(self, profiled: Profiled, output: int) -> tuple[str, int, int]:
        """Place of the counts, rounds, and draft tokens that these accepted."""
        place, said = "spec_decode_acceptance", profiled.spec_decode_acceptance
        if said is None:
            place, members = "metrics", _counted(profiled.metrics)
            if members is None and output == 1:
                return place, 0, 0
            if members is None:
                expected = "spec_decode_steps and spec_decode_accepted_draft_tokens"
                raise ValueError(f"metrics: expected {expected}, got none")
            said = convert(members, _Acceptance, place)
        if said.num_spec_tokens not in (None, self.draft_length):
            expected = f"the draft length given, {self.draft_length}"
            raise ValueError(
                f"{place}.num_spec_tokens: expected {expected}, got {said.num_spec_tokens}"
            )
        return place, said.num_spec_steps, said.num_accepted_draft_tokens


def _counted(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The counts among the metrics, under the names that they have in an acceptance record."""
    names = {
        "num_spec_steps": "spec_decode_steps",
        "num_accepted_draft_tokens": "spec_decode_accepted_draft_tokens",
    }
    found = {own: _metric(metrics, name)[1] for own, name in names.items() if name in metrics}
    return found or None
