"""EAGLE's own answer files.

github.com/SafeAILab/EAGLE, eagle/evaluation/gen_ea_answer_*.py: JSONL with `question_id`,
`model_id` and `choices`; of `choices[0]` this reads, for every turn, `new_tokens` and `idxs` (the
index of the last round, so a turn took `idxs` + 1 of them). What each round committed is not
there, and the trace is filled (see `totals`). `category` and the prompts are in the question file.
`wall_time` (seconds of each turn) is not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.importers.questions import Prompts, Question, estimated, read_questions
from laps_env.traces.importers.records import (
    Id,
    LeftOut,
    OnError,
    Paths,
    Text,
    file_category,
    read_files,
)
from laps_env.traces.importers.runs import Fill, bernoulli_fill
from laps_env.traces.importers.totals import MOST_COUNTED, RequestTotals, build_from_totals
from laps_env.traces.schema import MAX_RUN
from laps_env.utils.checks import check_count
from laps_env.utils.documents import convert

#: Numbers of each turn.
_Tokens = Annotated[list[Annotated[int, Meta(ge=1, le=MOST_COUNTED)]], Meta(min_length=1)]
_Indices = Annotated[list[Annotated[int, Meta(ge=0, le=MOST_COUNTED)]], Meta(min_length=1)]


class _Answer(msgspec.Struct):
    question_id: Id
    choices: Annotated[list[Any], Meta(min_length=1)]
    category: Text | None = None
    model_id: Text | None = None


class _Choice(msgspec.Struct):
    new_tokens: _Tokens
    idxs: _Indices


def import_eagle(
    paths: Paths,
    info: TraceInfo,
    *,
    draft_length: int,
    questions: str | Path | None = None,
    category: str | None = None,
    fill: Fill = bernoulli_fill,
    seed: int = 0,
    on_error: OnError = "raise",
    left_out: LeftOut | None = None,
) -> AcceptanceTrace:
    """Read the answer files of EAGLE's repository, plain or gzip.

    Args:
        paths: File of one JSON object per line, or several of one run.
        info: Origin of the run.
        draft_length: Most draft tokens that a round can accept, 1 .. 255 (EAGLE's tree: its depth).
        questions: Question file (`question_id`, `turns`, `category`), for the categories and to
            *estimate* prompt lengths by characters / 4 plus the earlier turns. Without it
            prompt_tokens is 0, not recorded.
        category: Category of answers for which no file says one; None = the file's name.
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
    check_count("draft_length", draft_length, most=MAX_RUN)
    known = read_questions(questions)
    files = read_files(
        paths,
        lambda path: _Reader(draft_length, known, category or file_category(path)).requests,
        on_error=on_error,
        left_out=left_out,
    )
    if questions is not None:
        info = estimated(info)
    return build_from_totals(files, info, draft_length=draft_length, fill=fill, seed=seed)


@dataclass
class _Reader:
    """Reader of one file's records."""

    draft_length: int
    questions: dict[int, Question]
    category: str

    def __post_init__(self) -> None:
        self._prompts = Prompts(self.questions)

    def requests(self, record: dict[str, Any]) -> list[RequestTotals]:
        """Turns of an answer."""
        answer = convert(record, _Answer)
        choice = convert(answer.choices[0], _Choice, "choices[0]")
        if len(choice.idxs) != len(choice.new_tokens):
            expected = f"{len(choice.new_tokens)} turns by new_tokens"
            raise ValueError(f"choices[0].idxs: expected {expected}, got {len(choice.idxs)}")
        number = answer.question_id
        asked = self.questions.get(number)
        category = answer.category or (asked.category if asked else None) or self.category
        return [
            RequestTotals(
                category=category,
                group=number,
                prompt_tokens=self._prompts.tokens(number, turn, tokens),
                run={} if answer.model_id is None else {"model_id": answer.model_id},
                tokens=tokens,
                rounds=self._rounds(turn, index + 1, tokens),
                accepted=tokens - (index + 1),
            )
            for turn, (tokens, index) in enumerate(zip(choice.new_tokens, choice.idxs, strict=True))
        ]

    def _rounds(self, turn: int, rounds: int, tokens: int) -> int:
        most = rounds * (self.draft_length + 1)
        if not rounds <= tokens <= most:
            expected = f"{rounds} .. {most} tokens of {rounds} rounds that draft up to "
            raise ValueError(
                f"new_tokens, turn {turn}: expected {expected}{self.draft_length}, got {tokens}"
            )
        return rounds
