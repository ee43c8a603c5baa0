"""SpecDecode-Bench's accept lengths per output position.

github.com/SpecDecode-Bench/simulator (arXiv 2601.11580), data/<model>/combined_<set>.jsonl: JSONL
with `id`, `prompt_token_ids`, `generated_token_ids` and, per drafter, `acc_eagle.acc_len` and
`acc_ngram.acc_len` (in files of one drafter `acc.acc_len`): for every output position the tokens
that a round starting there commits, accepted + 1, without a bound by the draft length. So
accepted_length = acc_len - 1, all of it measured.

The first entry was 1 in every record looked at: that token comes with the prefill and is not
drafted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.importers.records import LeftOut, OnError, parse_records
from laps_env.traces.schema import MAX_RUN
from laps_env.utils.documents import convert


class _Texts(msgspec.Struct):
    prompt_token_ids: Annotated[list[Any], Meta(min_length=1)]
    generated_token_ids: Annotated[list[Any], Meta(min_length=1)]


class _Lengths(msgspec.Struct):
    acc_len: Annotated[list[Annotated[int, Meta(ge=1, le=2**31)]], Meta(min_length=1)]


def import_specdecode_bench(
    path: str | Path,
    info: TraceInfo,
    *,
    drafter: str,
    category: str,
    on_error: OnError = "raise",
    left_out: LeftOut | None = None,
) -> AcceptanceTrace:
    """Read the accept lengths of one drafter, plain or gzip.

    Args:
        path: File of one JSON object per line.
        info: Origin of the run.
        drafter: Name of the file's member to read, for example "acc_eagle", "acc_ngram" or "acc".
        category: Name of the category of all requests (a file holds one data set).
        on_error: Treatment of a malformed line: "raise" the error, or "skip" the line.
        left_out: Report, to which skipped lines are added.

    Raises:
        TraceError: A file or line that is not of the format; the message names the file, the line
            and the field.
        OSError: The file cannot be read.
    """

    def parse(record: dict[str, Any]) -> tuple[NDArray[np.uint8], int]:
        texts = convert(record, _Texts)
        if drafter not in record:
            raise ValueError(f"{drafter}: expected a value, got none")
        lengths, positions = convert(record[drafter], _Lengths, drafter), texts.generated_token_ids
        if len(lengths.acc_len) != len(positions):
            raise ValueError(
                f"{drafter}.acc_len: expected {len(positions)} output positions, "
                f"got {len(lengths.acc_len)}"
            )
        runs = np.minimum(np.array(lengths.acc_len) - 1, MAX_RUN).astype(np.uint8)
        return runs, len(texts.prompt_token_ids)

    path = Path(path)
    records = list(parse_records(path, parse, on_error=on_error, left_out=left_out))
    lengths = np.array([len(runs) for runs, _ in records], np.int64)
    trace = AcceptanceTrace(
        accepted_length=np.concatenate([runs for runs, _ in records]),
        offset=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        output_tokens=lengths,
        prompt_tokens=np.array([prompt for _, prompt in records], np.int64),
        category=np.zeros(len(records), np.int64),
        categories=(category,),
        info=info,
        source=str(path),
    )
    trace.validate()
    return trace
