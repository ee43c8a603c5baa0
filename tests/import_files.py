"""Small files in the formats of others, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from laps_env.traces import TraceInfo

INFO = TraceInfo("draft-model", "big", "small")

#: Rounds of a turn in the reduced form: drafts 2, accepts 1 (bits 1 0); drafts 2, accepts 2 (bits
#: 1 1 ?); drafts 3, accepts 1, and the output ends (bits 1 ?).
TURN = {"q": 5, "turn": 0, "cat": "qa", "n": 7, "a": [2, 3, 2], "g": [2, 2, 3]}


def write_lines(path: Path, *lines: Any) -> Path:
    """A file of these lines, texts as they are and others as JSON."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def answer(**choice: Any) -> dict[str, Any]:
    """An answer of Spec-Bench to two turns, of 2 rounds each."""
    values = {
        "turns": ["x", "y"],
        "idxs": [1, 1],
        "new_tokens": [5, 3],
        "wall_time": [1.0, 1.0],
        "accept_lengths": [3, 2, 1, 2],
    }
    choices = [{"index": 0, **values, **choice}]
    return {"question_id": 81, "category": "writing", "choices": choices}


def response(completion_tokens: int, accepted: Any, **changes: Any) -> dict[str, Any]:
    """A response of vLLM."""
    detail = {"num_spec_tokens": 3, "per_step_accepted": accepted, **changes}
    usage = {"prompt_tokens": 20, "completion_tokens": completion_tokens}
    return {"id": "c-1", "usage": usage, "metrics": {"speculative_decoding": detail}}


#: First line of a step log.
STEPS_HEADER = {
    "format": "laps-env steps",
    "version": 1,
    "engine": "vllm 0.32.0",
    "target": "big",
    "drafter": "ngram",
    "draft": "",
    "device": "a processor",
    "dtype": "float32",
    "batch_size": 4,
    "draft_length": 3,
}


def step(at_s: float, duration_s: float, *shares: tuple[Any, ...]) -> dict[str, Any]:
    """A step of such a log; a share is (id, cached, scheduled, drafted, committed)."""
    names = ("id", "cached", "scheduled", "drafted", "committed")
    requests = [dict(zip(names, share, strict=True)) for share in shares]
    return {"step": {"at_s": at_s, "duration_s": duration_s, "requests": requests}}


def left(name: str, arrival_s: float, **changes: Any) -> dict[str, Any]:
    """A request that has left it."""
    values = {
        "id": name,
        "arrival_s": arrival_s,
        "finish_s": arrival_s + 1,
        "prompt_tokens": 6,
        "output_tokens": 1,
        "predicted_tokens": None,
        "category": "",
        "reason": "stop",
    }
    return {"request": values | changes}
