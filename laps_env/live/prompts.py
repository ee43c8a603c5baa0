"""Prompt files, and the one partition of their questions.

A draft accepts far more on text that it was distilled on than elsewhere, and a length predictor
knows the lengths that it was fitted to. So each question, with all its turns, belongs to exactly
one part: *distill* (the draft learns from it), or of the splits of traffic *train* (recorded;
schedulers and the length predictor learn from it) or *test* (recorded; results come from it).
"""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from laps_env.traces.importers.records import LeftOut, NoTokensError, Text, parse_records
from laps_env.utils.documents import convert

Part = Literal["distill", "train", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
RECORDED_PARTS = PARTS[1:]

#: Prompts of our own that come with the package.
DEMO_PROMPTS = str(files("laps_env") / "data" / "demo_prompts.jsonl")

#: Of every category this many questions are recorded, but at most this share of them.
RECORDED_QUESTIONS = 128
RECORDED_SHARE = 0.75

#: Spec-Bench's categories by the six tasks it reports; MT-Bench's eight count as chat.
_TASKS = {
    "math_reasoning": "math",
    "qa": "qa",
    "rag": "rag",
    "summarization": "summarization",
    "translation": "translation",
}


@dataclass(frozen=True)
class Question:
    """One question of a user.

    Attributes:
        name: File and place, unique.
        category: Task that it belongs to.
        turns: Texts of the user, turn by turn, at least one.
    """

    name: str
    category: str
    turns: tuple[str, ...]


def read_questions(paths: Sequence[str | Path]) -> list[Question]:
    """The questions of some prompt files; a repeated one counts once.

    Files are JSON lines or one JSON array, plain or gzip. Known forms, told by their members:
    Spec-Bench and MT-Bench (``turns``, ``category``), GSM8K (``question``), MBPP (``text``,
    ``test_list``), HumanEval (``task_id``, ``prompt``), ShareGPT (``conversations`` of ``from`` and
    ``value``), ``messages`` of ``role`` and ``content``, and for everything else ``prompt`` with an
    optional ``category``. Of conversations only the user's texts are taken, in their order; those
    without one are left out, with a warning.

    Raises:
        laps_env.traces.TraceError: A file that is no such list; the message names the line.
        OSError: A file cannot be read.
    """
    questions: dict[tuple[str, ...], Question] = {}
    for path in map(Path, paths):
        stem = path.name.split(".")[0]
        empty = LeftOut()
        read = parse_records(path, _read, on_failed="skip", left_out=empty)
        for number, (category, turns) in enumerate(read, 1):
            question = Question(f"{stem}/{number}", category or stem, turns)
            questions.setdefault(turns[:1], question)
        for kind, count in empty.lines.items():
            warnings.warn(f"left out: {count} {kind}: {empty.first[kind]}", stacklevel=2)
    return list(questions.values())


class _Conversation(msgspec.Struct):
    turns: Annotated[list[str], Meta(min_length=1)]
    category: Text


class _Gsm8k(msgspec.Struct):
    question: Text


class _Mbpp(msgspec.Struct):
    text: Text
    test_list: list[Any]


class _Prompt(msgspec.Struct):
    prompt: Text
    category: Text = ""


class _ShareGptTurn(msgspec.Struct):
    speaker: str = msgspec.field(name="from")
    value: str


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """The content, whole or in parts.

        Raises:
            ValueError: A part that is no text, such as a picture.
        """
        if not isinstance(self.content, list):
            return self.content or ""
        kinds = sorted({str(part.get("type")) for part in self.content} - {"text"})
        if kinds:
            raise ValueError(f"content: expected parts of text, got {', '.join(kinds)}")
        return "\n".join(str(part.get("text", "")) for part in self.content)


def _users(name: str, told: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Texts of the user in a conversation of speakers and texts."""
    turns = tuple(text.strip() for speaker, text in told if speaker in ("human", "user"))
    turns = tuple(turn for turn in turns if turn)
    if not turns:
        raise NoTokensError("prompt", f"{name}: expected a text of the user, got none")
    return turns


def _read(record: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Category (empty where none is told) and turns of one line, which a tokenizer can read."""
    category, turns = _told(record)
    try:
        "".join(turns).encode()
    except UnicodeEncodeError as error:  # JSON can hold half a character
        raise ValueError(f"expected a prompt of whole characters, got {error}") from None
    return category, turns


def _told(record: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    if "turns" in record:
        told = convert(record, _Conversation)
        return _TASKS.get(told.category, "chat"), tuple(turn.strip() for turn in told.turns)
    if "conversations" in record:
        spoken = convert(record["conversations"], list[_ShareGptTurn], "conversations")
        return "", _users("conversations", ((turn.speaker, turn.value) for turn in spoken))
    if "messages" in record:
        sent = convert(record["messages"], list[_Message], "messages")
        return "", _users("messages", ((m.role, m.text) for m in sent if m.role == "user"))
    if "question" in record:
        return "math", (convert(record, _Gsm8k).question.strip(),)
    if "test_list" in record:
        task = convert(record, _Mbpp)
        tests = "\n".join(map(str, task.test_list))
        text = f"{task.text.strip()} Your code should pass these tests:\n\n{tests}"
        return "code", (text,)
    if "task_id" in record:
        prompt = convert({"prompt": record.get("prompt")}, _Prompt).prompt.strip()
        return "code", (f"Complete this Python function.\n\n{prompt}",)
    given = convert(record, _Prompt)
    return given.category, (given.prompt.strip(),)


def partition(questions: Sequence[Question]) -> dict[Part, list[Question]]:
    """Questions of every part, chosen by category and a hash of the first turn.

    Of each category the first `RECORDED_QUESTIONS` in order of the hash, at most
    `RECORDED_SHARE`, are recorded, taking turns between train and test.
    """
    categories: dict[str, list[Question]] = defaultdict(list)
    for question in sorted(questions, key=_digest):
        categories[question.category].append(question)
    parts: dict[Part, list[Question]] = {part: [] for part in PARTS}
    for members in categories.values():
        recorded = min(RECORDED_QUESTIONS, int(RECORDED_SHARE * len(members)))
        parts["train"] += members[:recorded:2]
        parts["test"] += members[1:recorded:2]
        parts["distill"] += members[recorded:]
    return parts


def _digest(question: Question) -> str:
    return hashlib.sha256(question.turns[0].encode()).hexdigest()


def encode(tokenizer: Any, turns: Sequence[str]) -> list[int]:
    """Token ids of a conversation that the user and the assistant take in turns, user last."""
    roles = ("user", "assistant")
    if tokenizer.chat_template is None:
        return list(tokenizer("\n".join(turns))["input_ids"])
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])
