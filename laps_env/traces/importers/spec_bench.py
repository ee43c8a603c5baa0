"""Spec-Bench's answer files, and their reduced form.

Answer file (github.com/hemingkx/Spec-Bench, evaluation/eval.py): JSONL with `question_id`,
`category`, `model_id` and `choices`; of `choices[0]` this reads `new_tokens` (one per turn) and
`accept_lengths` (tokens committed per round, accepted + 1, *one flat list over all turns*). The
sums of `accept_lengths` meet `new_tokens` exactly, which is how the turns are told apart;
`decoding_steps`, or `idxs` in older files (rounds, or the index of the last round), must agree.
The draft length per round is not in these files: give it as `draft_length`, or add a flat list
`draft_lengths` to `choices[0]`.

Reduced form: JSONL, a turn a line: `q` question, `turn`, `cat` category, `n` new tokens, `a`
tokens committed per round, `g` draft tokens proposed per round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.importers.questions import Prompts, estimated, read_questions
from laps_env.traces.importers.records import (
    Id,
    LeftOut,
    OnError,
    Paths,
    Text,
    Tokens,
    read_files,
)
from laps_env.traces.importers.runs import Fill, RecordedRequest, bernoulli_fill, build_trace
from laps_env.traces.schema import MAX_RUN
from laps_env.utils.checks import check_count
from laps_env.utils.documents import convert

DraftLength = int | Literal["heuristic"]

#: Tokens committed and drafted in each round, as far as a trace can hold them.
_Committed = Annotated[list[Annotated[int, Meta(ge=1, le=MAX_RUN)]], Meta(min_length=1)]
_Drafted = Annotated[list[Annotated[int, Meta(ge=0, le=MAX_RUN)]], Meta(min_length=1)]
_Steps = Annotated[list[Annotated[int, Meta(ge=0, le=2**31)]], Meta(min_length=1)]


class _Turn(msgspec.Struct):
    """A line of the reduced form."""

    q: Id
    turn: Id
    cat: Text
    n: Tokens
    a: _Committed
    g: _Drafted = []


class _Answer(msgspec.Struct):
    """A line of an answer file."""

    question_id: Id
    category: Text
    choices: Annotated[list[Any], Meta(min_length=1)]
    model_id: Text | None = None


class _Choice(msgspec.Struct):
    """An answer to all turns of a question."""

    new_tokens: Annotated[list[Annotated[int, Meta(ge=1, le=2**31)]], Meta(min_length=1)]
    accept_lengths: _Committed
    draft_lengths: _Drafted = []
    decoding_steps: _Steps = []
    idxs: _Steps = []


def import_spec_bench(
    paths: Paths,
    info: TraceInfo,
    *,
    plain_draft: bool,
    draft_length: DraftLength | None = None,
    questions: str | Path | None = None,
    fill: Fill = bernoulli_fill,
    seed: int = 0,
    on_error: OnError = "raise",
    left_out: LeftOut | None = None,
) -> AcceptanceTrace:
    """Read answer files or their reduced form, plain or gzip.

    Args:
        paths: File of one JSON object per line, or several of one run.
        info: Origin of the run.
        plain_draft: Whether the drafter is a model of its own, decoded greedily (Spec-Bench's
            "sps"), so that the bits of every position that a round passed are known. False for
            EAGLE, Medusa, lookahead and n-gram.
        draft_length: Draft length of rounds that do not say it, 0 .. 255, or "heuristic" for the
            schedule of transformers' assisted generation (5; +2 after a full acceptance, else -1,
            at least 1).
        questions: Question file (`question_id`, `turns`), to *estimate* prompt lengths by
            characters / 4 plus the earlier turns. Without it prompt_tokens is 0, not recorded.
        fill: Function that draws what was not recorded.
        seed: Seed of the fill.
        on_error: Treatment of a malformed line: "raise" the error, or "skip" the line.
        left_out: Report, to which skipped lines are added.

    Raises:
        TraceError: A file or line that is not of the format, or files of different runs; the
            message names the file, the line, the turn and the field.
        ValueError: Another draft length.
        OSError: A file cannot be read.
    """
    if draft_length not in (None, "heuristic"):
        check_count("draft_length", draft_length, least=0, most=MAX_RUN)
    known = read_questions(questions)
    files = read_files(
        paths,
        lambda path: _Reader(draft_length, Prompts(known)).requests,
        on_error=on_error,
        left_out=left_out,
    )
    if questions is not None:
        info = estimated(info)
    return build_trace(files, info, plain_draft=plain_draft, fill=fill, seed=seed)


@dataclass
class _Reader:
    """Reader of one file's records, whose turns come in order."""

    draft_length: DraftLength | None
    prompts: Prompts

    def requests(self, record: dict[str, Any]) -> list[RecordedRequest]:
        """Requests of a record: the turn of a reduced form, or all turns of an answer."""
        read = _answer if "choices" in record else _reduced
        return read(record, self.draft_length, self.prompts)


def _reduced(
    record: dict[str, Any], draft_length: DraftLength | None, prompts: Prompts
) -> list[RecordedRequest]:
    line = convert(record, _Turn)
    if sum(line.a) != line.n:
        raise ValueError(f"a: expected a sum of n = {line.n}, got {sum(line.a)}")
    committed = np.array(line.a, np.int64)
    request = RecordedRequest(
        category=line.cat,
        group=line.q,
        prompt_tokens=prompts.tokens(line.q, line.turn, line.n),
        committed=committed,
        drafted=_drafted("g", committed, line.g, draft_length),
    )
    return [request]


def _answer(
    record: dict[str, Any], draft_length: DraftLength | None, prompts: Prompts
) -> list[RecordedRequest]:
    line = convert(record, _Answer)
    if isinstance(line.choices[0], dict) and "accept_lengths" not in line.choices[0]:
        expected = "tokens committed per round"
        raise ValueError(
            f"choices[0].accept_lengths: expected {expected}, got none (EAGLE's own files: see "
            "import_eagle, `laps-env import eagle`)"
        )
    choice = convert(line.choices[0], _Choice, "choices[0]")
    committed, drafts = np.array(choice.accept_lengths, np.int64), choice.draft_lengths
    if drafts and len(drafts) != len(committed):
        raise ValueError(f"draft_lengths: expected {len(committed)} rounds, got {len(drafts)}")
    total = np.cumsum(committed)
    requests = []
    first = 0
    for turn, boundary in enumerate(np.cumsum(choice.new_tokens)):
        last = int(np.searchsorted(total, boundary))
        if last == len(total) or total[last] != boundary:
            found = total[min(last, len(total) - 1)]
            raise ValueError(
                f"accept_lengths, turn {turn}: expected rounds that sum to {boundary}, got {found}"
            )
        rounds = slice(first, last + 1)
        first = last + 1
        _check_steps(choice, turn, len(committed[rounds]))
        request = RecordedRequest(
            category=line.category,
            group=line.question_id,
            run={} if line.model_id is None else {"model_id": line.model_id},
            prompt_tokens=prompts.tokens(line.question_id, turn, choice.new_tokens[turn]),
            committed=committed[rounds],
            drafted=_drafted(
                f"turn {turn}, draft_lengths", committed[rounds], drafts[rounds], draft_length
            ),
        )
        requests.append(request)
    if first != len(committed):
        raise ValueError(
            f"accept_lengths: expected {first} rounds by new_tokens, got {len(committed)}"
        )
    return requests


def _check_steps(choice: _Choice, turn: int, rounds: int) -> None:
    """`decoding_steps` counts rounds; `idxs` counts them or, in EAGLE's files, is one less."""
    for name, slack in (("decoding_steps", 0), ("idxs", 1)):
        steps = getattr(choice, name)
        if steps and (turn >= len(steps) or not rounds - slack <= steps[turn] <= rounds):
            raise ValueError(
                f"{name}, turn {turn}: expected {rounds} rounds by new_tokens, got {steps}"
            )


def _drafted(
    name: str,
    committed: NDArray[np.int64],
    given: Sequence[int],
    draft_length: DraftLength | None,
) -> NDArray[np.int64]:
    """Draft lengths [rounds], given or as `draft_length` says; none below what was accepted."""
    if given:
        if len(given) != len(committed):
            raise ValueError(f"{name}: expected {len(committed)} rounds, got {len(given)}")
        drafted = np.array(given, np.int64)
    elif draft_length is None:
        expected = "draft lengths in the file, or the argument draft_length"
        raise ValueError(f"{name}: expected {expected}, got none")
    elif draft_length == "heuristic":
        drafted = _heuristic(committed)
    else:
        drafted = np.full(len(committed), draft_length)
    if (excess := committed - 1 > drafted).any():
        k = int(np.argmax(excess))
        expected = f"at least {committed[k] - 1} drafted in round {k}"
        raise ValueError(f"{name}: expected {expected}, got {drafted[k]}")
    return drafted


def _heuristic(committed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draft lengths of transformers' assisted generation (num_assistant_tokens_schedule)."""
    drafted = np.empty(len(committed), np.int64)
    length = 5
    for k, accepted in enumerate(committed - 1):
        drafted[k] = length
        length = min(length + 2, MAX_RUN) if accepted == length else max(length - 1, 1)
    return drafted
