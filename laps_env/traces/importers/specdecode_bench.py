"""SpecDecode-Bench's accept lengths per output position.

github.com/SpecDecode-Bench/simulator (arXiv 2601.11580), data/<model>/combined_<set>.jsonl: JSONL
with `id`, `prompt_token_ids`, `generated_token_ids` and, per drafter, `acc_eagle.acc_len` and
`acc_ngram.acc_len` (in files of one drafter `acc.acc_len`): for every output position the tokens
that a round starting there commits, accepted + 1, without a bound by the draft length. So
accepted_length = acc_len - 1, all of it measured.

Each drafter answered in a run of its own, and the answers differ: an output is as long as its
`acc_len`. `generated_token_ids`, which are of one of the runs, are not read.

The first entry was 1 in every record looked at: that token comes with the prefill and is not
drafted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.importers.records import (
    LeftOut,
    OnError,
    Paths,
    file_category,
    read_files,
)
from laps_env.traces.importers.requests import Recorded, shared_columns
from laps_env.traces.schema import MAX_RUN
from laps_env.utils.documents import convert


class _Prompt(msgspec.Struct):
    prompt_token_ids: Annotated[list[Any], Meta(min_length=1)]


class _Lengths(msgspec.Struct):
    acc_len: Annotated[list[Annotated[int, Meta(ge=1, le=2**31)]], Meta(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class _Request(Recorded):
    """An output whose every position was measured.

    Attributes:
        accepted_length: Accepted length at each position [output_tokens], up to 255.
    """

    accepted_length: NDArray[np.uint8]

    @property
    def output_tokens(self) -> int:
        """Output length."""
        return len(self.accepted_length)


def import_specdecode_bench(
    paths: Paths,
    info: TraceInfo,
    *,
    category: str | None = None,
    on_error: OnError = "raise",
    left_out: LeftOut | None = None,
) -> AcceptanceTrace:
    """Read the accept lengths of one drafter, plain or gzip.

    Args:
        paths: File of one JSON object per line, or several, each of a data set.
        info: Origin of the run. Its drafter, for example "eagle" or "ngram", says which member is
            read: "acc_eagle", "acc_ngram"; or "acc" where a record has no such member.
        category: Category of all requests; None = of each file's its name, without "combined_".
        on_error: Treatment of a malformed line: "raise" the error, or "skip" the line.
        left_out: Report, to which skipped lines are added.

    Raises:
        TraceError: A file or line that is not of the format; the message names the file, the line
            and the field.
        OSError: The file cannot be read.
    """

    def parser_of(path: Path) -> Callable[[dict[str, Any]], list[_Request]]:
        data_set = file_category(path).removeprefix("combined_")
        return _Reader(info.drafter, category or data_set).requests

    files = read_files(paths, parser_of, on_error=on_error, left_out=left_out)
    trace = AcceptanceTrace(
        accepted_length=np.concatenate(
            [request.accepted_length for read in files.values() for request in read]
        ),
        **shared_columns(files, info),
    )
    trace.validate()
    return trace


@dataclass
class _Reader:
    """Reader of one file's records."""

    drafter: str
    category: str
    read: int = 0

    def requests(self, record: dict[str, Any]) -> list[_Request]:
        """The one request of a record."""
        member = f"acc_{self.drafter}"
        if member not in record and "acc" in record:
            member = "acc"
        if member not in record:
            known = [name for name in record if name.startswith("acc_")]
            raise ValueError(
                f"{member}: expected accept lengths of the drafter {self.drafter!r}, got {known}"
            )
        prompt = convert(record, _Prompt)
        lengths = convert(record[member], _Lengths, member).acc_len
        self.read += 1
        return [
            _Request(
                category=self.category,
                group=self.read - 1,
                prompt_tokens=len(prompt.prompt_token_ids),
                accepted_length=np.minimum(np.array(lengths) - 1, MAX_RUN).astype(np.uint8),
            )
        ]
