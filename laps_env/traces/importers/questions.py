"""Spec-Bench's question file: what an answer file does not say of its prompts."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path

import msgspec

from laps_env.traces import TraceInfo
from laps_env.traces.importers.records import Id, Text, parse_records
from laps_env.utils.documents import convert

#: Characters of English per token (assumed); only for estimates of prompt lengths.
CHARACTERS_PER_TOKEN = 4


class Question(msgspec.Struct):
    """A line of the question file."""

    question_id: Id
    turns: list[str]
    category: Text | None = None


def read_questions(path: Path | str | None) -> dict[int, Question]:
    """The questions by their number; none without a file.

    Raises:
        TraceError: No question file; the message names the line and the field.
        OSError: The file cannot be read.
    """
    if path is None:
        return {}
    read = parse_records(Path(path), partial(convert, kind=Question))
    return {question.question_id: question for question in read}


def estimated(info: TraceInfo) -> TraceInfo:
    """The origin of a trace whose prompt lengths are estimates."""
    note = f"estimated: characters / {CHARACTERS_PER_TOKEN} plus the earlier answers"
    return msgspec.structs.replace(info, provenance={**info.provenance, "prompt_tokens": note})


class Prompts:
    """Estimates of the prompt lengths of one file, whose answers belong to the later prompts."""

    def __init__(self, questions: dict[int, Question]) -> None:
        self._questions = questions
        self._answered: dict[int, int] = defaultdict(int)

    def tokens(self, question: int, turn: int, new_tokens: int) -> int:
        """Length of the prompt of this turn, which follows the earlier turns and their answers.

        0 without a question file.

        Raises:
            ValueError: A turn that the question file does not have.
        """
        if not self._questions:
            return 0
        known = self._questions.get(question)
        turns = known.turns if known else []
        if turn >= len(turns):
            expected = f"a turn of question {question} in the question file"
            raise ValueError(f"turn: expected {expected}, got {turn}")
        characters = sum(len(text) for text in turns[: turn + 1])
        earlier = self._answered[question]
        self._answered[question] += new_tokens
        return max(-(-characters // CHARACTERS_PER_TOKEN), 1) + earlier
