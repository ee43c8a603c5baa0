"""SpecDecode-Bench's accept lengths per output position.

github.com/SpecDecode-Bench/simulator (arXiv 2601.11580), data/<model>/combined_<set>.jsonl: JSONL
with `id`, `prompt_token_ids`, `generated_token_ids` and, per drafter, `acc_eagle.acc_len` and
`acc_ngram.acc_len` (in files of one drafter `acc.acc_len`): for every output position the tokens
that a round starting there commits, accepted + 1, without a bound by the draft length. So
accepted_length = acc_len - 1, all of it measured.

The first entry was 1 in every record looked at: that token comes with the prefill and is not
drafted.
"""

from pathlib import Path

import numpy as np

from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.importers.records import Record, read_records
from laps_env.traces.schema import MAX_RUN


def import_specdecode_bench(
    path: str | Path, info: TraceInfo, *, drafter: str, category: str
) -> AcceptanceTrace:
    """Read the accept lengths of one drafter, plain or gzip.

    drafter: which of the file's members to read, for example "acc_eagle", "acc_ngram" or "acc".
    category: the name of all requests of the file (a file holds one data set).

    Raises TraceError naming the file, the line and the field.
    """
    path = Path(path)
    runs, prompts = [], []
    for record in read_records(path):
        accepted = record.member(drafter).integers("acc_len", 1, 2**31)
        generated = _length(record, "generated_token_ids")
        if len(accepted) != generated:
            record.fail(f"{drafter}, acc_len", f"{generated} output positions", len(accepted))
        runs.append(np.minimum(accepted - 1, MAX_RUN).astype(np.uint8))
        prompts.append(_length(record, "prompt_token_ids"))
    lengths = np.array([len(run) for run in runs], np.int64)
    trace = AcceptanceTrace(
        accepted_length=np.concatenate(runs),
        offset=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        output_tokens=lengths,
        prompt_tokens=np.array(prompts, np.int64),
        category=np.zeros(len(runs), np.int64),
        categories=(category,),
        info=info,
        source=str(path),
    )
    trace.validate()
    return trace


def _length(record: Record, name: str) -> int:
    value = record.get(name)
    if not isinstance(value, list) or not value:
        record.fail(name, "a non-empty list of token ids", value)
    return len(value)
