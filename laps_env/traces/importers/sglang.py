"""SGLang's responses, which count the rounds of an answer.

github.com/sgl-project/sglang: a line is a response of `/generate`, with `meta_info`, or one of its
OpenAI interface with `choices[0].meta_info` (`return_meta_info`). Of `meta_info` this reads
`prompt_tokens`, `completion_tokens`, `spec_verify_ct` (verifications, with a server that
speculates) and what these accepted, under any of the names that it has had:
`spec_num_correct_drafts`, `spec_accepted_drafts`, `spec_accept_token_num`, `spec_accepted_tokens`.
Without one of them it is `completion_tokens` less the verifications, and less the first token,
which comes with the prefill. An answer of one token needs no verification. What each round
committed is not there, and the trace is filled (see `totals`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.importers.records import (
    LeftOut,
    NoTokensError,
    OnError,
    Paths,
)
from laps_env.traces.importers.runs import Fill, bernoulli_fill
from laps_env.traces.importers.totals import Count, Counted, CountedReader, import_counted
from laps_env.utils.documents import convert

#: Names of the accepted draft tokens, newest first.
_ACCEPTED = (
    "spec_num_correct_drafts",
    "spec_accepted_drafts",
    "spec_accept_token_num",
    "spec_accepted_tokens",
)


class _MetaInfo(msgspec.Struct):
    prompt_tokens: Count
    completion_tokens: Count
    spec_verify_ct: Count | None = None
    spec_num_correct_drafts: Count | None = None
    spec_accepted_drafts: Count | None = None
    spec_accept_token_num: Count | None = None
    spec_accepted_tokens: Count | None = None


def import_sglang(
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
    """Read responses, one JSON object per line or entry, plain or gzip.

    Args:
        paths: File of responses, or several of one run.
        info: Origin of the run.
        draft_length: Most draft tokens that a round can accept, 1 .. 255
            (`--speculative-num-steps`).
        category: Category of all responses; None = the file's name.
        fill: Function that draws what was not recorded.
        seed: Seed of the fill.
        on_error: Treatment of a malformed line: "raise" the error, or "skip" the line.
        left_out: Report, to which skipped lines and responses without output are added.

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
        """What a response says."""
        place, members = _meta_info(record)
        meta = convert(members, _MetaInfo, place)
        if meta.completion_tokens == 0:
            raise NoTokensError("output", f"{place}.completion_tokens: expected >= 1, got 0")
        rounds = _rounds(place, meta)
        name, accepted = _accepted(meta, rounds)
        prompt, tokens = meta.prompt_tokens, meta.completion_tokens
        return Counted(f"{place}.{name}", prompt, tokens, rounds, accepted)


def _meta_info(record: dict[str, Any]) -> tuple[str, Any]:
    """Place and members of a response's `meta_info`."""
    choices = record.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        place, holder = "choices[0].meta_info", choices[0]
    else:
        place, holder = "meta_info", record
    if "meta_info" not in holder:
        raise ValueError(f"{place}: expected a value, got none")
    return place, holder["meta_info"]


def _rounds(place: str, meta: _MetaInfo) -> int:
    if meta.spec_verify_ct is None and meta.completion_tokens > 1:
        expected = "the verifications of a server that speculates"
        raise ValueError(f"{place}.spec_verify_ct: expected {expected}, got none")
    rounds = meta.spec_verify_ct or 0
    if rounds > meta.completion_tokens:
        expected = f"at most one for each of {meta.completion_tokens} tokens"
        raise ValueError(f"{place}.spec_verify_ct: expected {expected}, got {rounds}")
    return rounds


def _accepted(meta: _MetaInfo, rounds: int) -> tuple[str, int]:
    """Draft tokens accepted in all rounds, and the member that says so."""
    for name in _ACCEPTED:
        accepted = getattr(meta, name)
        if accepted is not None:
            return name, accepted
    return "completion_tokens", max(meta.completion_tokens - 1 - rounds, 0)
