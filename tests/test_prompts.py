"""Conversations as prompt files: ShareGPT's, and messages."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from laps_env.live.prompts import read_questions
from laps_env.traces import TraceError

CONVERSATION = {
    "id": "QWJhYvA_0",
    "conversations": [
        {"from": "system", "value": "Be short."},
        {"from": "human", "value": " Hello "},
        {"from": "gpt", "value": "Hi!"},
        {"from": "human", "value": "How are you?"},
        {"from": "gpt", "value": "Well."},
    ],
}
NOBODY = {"id": "b", "conversations": [{"from": "gpt", "value": "Hi!"}]}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return path


def messages(*contents: Any, **more: Any) -> dict[str, Any]:
    """A conversation of the user with the assistant in between."""
    told: list[dict[str, Any]] = [{"role": "system", "content": "Be short."}]
    for content in contents:
        told += [{"role": "user", "content": content}, {"role": "assistant", "content": None}]
    return {"messages": told, **more}


def test_an_array_of_sharegpt(tmp_path: Path) -> None:
    path = write(tmp_path / "share.json", [CONVERSATION, NOBODY, CONVERSATION])
    with pytest.warns(
        UserWarning, match=r"left out: 1 without prompt: .*entry 1, conversations: expected a text"
    ):
        (question,) = read_questions([path])
    assert (question.name, question.category) == ("share/1", "share")
    assert question.turns == ("Hello", "How are you?")
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(json.dumps([CONVERSATION]).encode()))
    assert read_questions([packed])[0].turns == question.turns


def test_lines_of_messages(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Look"}, {"type": "text", "text": "here."}]
    lines = [messages("One?", "Two?"), messages(parts, output_length=9)]
    path = write(tmp_path / "chat.jsonl", "\n".join(map(json.dumps, lines)))
    first, second = read_questions([path])
    assert (first.turns, second.turns) == (("One?", "Two?"), ("Look\nhere.",))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"conversations": "x"}, "line 1, conversations: expected a list, got 'x'"),
        ({"conversations": [{"from": "human"}]}, r"conversations\[0\]\.value: expected a value"),
        ({"messages": [{"content": "x"}]}, r"line 1, messages\[0\]\.role: expected a value, got"),
        (
            messages([{"type": "image_url", "image_url": {}}]),
            "line 1, content: expected parts of text, got image_url",
        ),
        (messages("\ud800"), "line 1.*expected .* whole characters"),
    ],
)
def test_bad_conversations_are_named(tmp_path: Path, record: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_questions([write(tmp_path / "chat.jsonl", json.dumps(record))])


def test_a_file_without_a_user_has_no_prompts(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="expected at least one request, got none"):
        read_questions([write(tmp_path / "share.json", [NOBODY])])
