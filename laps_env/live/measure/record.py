"""Acceptance traces of a pair of models from prompt files, with a journal of finished questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, TypedDict

import torch
import transformers

from laps_env import __version__
from laps_env.live.engine.loading import Pair
from laps_env.live.engine.verification import Decoding
from laps_env.live.measure.recording import Recorded, Recorder, assemble
from laps_env.live.prompts import RECORDED_PARTS, Part, Question, encode, partition, read_questions
from laps_env.traces import TraceInfo
from laps_env.utils.journal import Journal

#: Wraps what is recorded, to show how far it is.
Watch = Callable[[Iterator[Any], int, str], Iterator[Any]]


@dataclass(frozen=True)
class Recipe:
    """What is recorded, and how.

    Attributes:
        prompts: Prompt files.
        limit: Most output tokens of a request.
        longest: Most prompt tokens of a request.
        batch: Requests that are recorded at once.
        draft_length: Tokens that are drafted in a round.
        temperature: Temperature of target and draft, >= 0; 0 is greedy.

    Raises:
        ValueError: The temperature is out of range.
    """

    prompts: tuple[str, ...]
    limit: int = 320
    longest: int = 2048
    batch: int = 24
    draft_length: int = 2
    temperature: float = 0.0

    def __post_init__(self) -> None:
        Decoding(self.temperature)


class Answered(TypedDict):
    """A line of the journal: a question with all its turns."""

    part: str
    group: int
    turns: list[dict[str, Any]]


def trace_paths(folder: Path, name: str) -> dict[tuple[Part, bool], Path]:
    """File of each part's trace, of the drafter and (True) of prompt lookup on the same texts."""
    return {
        (part, lookup): folder / f"{name}{'-lookup' if lookup else ''}-{part}.safetensors"
        for part, lookup in product(RECORDED_PARTS, (False, True))
    }


def record_traces(
    pair: Pair,
    recipe: Recipe,
    folder: Path,
    name: str,
    watch: Watch,
    make: type[Recorder] = Recorder,
) -> None:
    """Record what the journal in the folder does not hold, and write the traces.

    Args:
        pair: Models in float32.
        recipe: Recipe of the recording.
        folder: Folder of the traces and of the journal.
        name: Beginning of the files' names.
        watch: Wrapper that shows progress.
        make: Kind of recorder, for one that keeps more than traces do.

    Raises:
        OSError, ValueError: Prompt files that cannot be used, or the journal of another recording.
    """
    names = {"target": str(pair.target_name), "draft": str(pair.draft_name)}
    kept = [own.name for own in fields(Recorded)]
    job = {"job": "recording", **names, **asdict(recipe), "kept": kept}
    recorder = make(
        pair,
        limit=recipe.limit,
        longest=recipe.longest,
        batch=recipe.batch,
        draft_length=recipe.draft_length,
        decoding=Decoding(recipe.temperature),
    )
    categories = sorted({q.category for q in read_questions(recipe.prompts)})
    with Journal(folder / f"{name}.journal", job, Answered) as journal:
        recorded = {
            (entry["part"], entry["group"]): [Recorded(**turn) for turn in entry["turns"]]
            for entry in journal.entries
        }
        for part in RECORDED_PARTS:
            asked = questions_of(pair, recipe, part)
            waiting = {k: asked[k] for k in asked if (part, k) not in recorded}
            for group, turns in watch(recorder.record(waiting), len(waiting), part):
                entry = {"part": part, "group": group, "turns": [asdict(t) for t in turns]}
                journal.add(entry)
                recorded[part, group] = turns
            done = [turn for group in asked for turn in recorded[part, group]]
            for (of, lookup), path in trace_paths(folder, name).items():
                if of == part:
                    write(path, pair, recipe, part, done, categories, lookup)
        journal.remove()


def questions_of(pair: Pair, recipe: Recipe, part: Part) -> dict[int, Question]:
    """The questions of the part by number, without those whose first prompt is too long."""
    return {
        group: question
        for group, question in enumerate(partition(read_questions(recipe.prompts))[part])
        if len(encode(pair.tokenizer, question.turns[:1])) <= recipe.longest
    }


def write(
    path: Path,
    pair: Pair,
    recipe: Recipe,
    part: Part,
    recorded: list[Recorded],
    categories: list[str],
    lookup: bool,
) -> None:
    """Write a trace of a part, of the drafter or of prompt lookup."""
    info = TraceInfo(
        drafter="ngram" if lookup else pair.drafter_kind,
        target_model=Path(pair.target_name).name,
        draft_model="prompt lookup" if lookup else Path(pair.draft_name).name,
        decoding={
            "temperature": recipe.temperature,
            "max_new_tokens": recipe.limit,
            "dtype": "float32",
        },
        provenance={
            "part": part,
            "prompts": [Path(path).name for path in recipe.prompts],
            "batch": recipe.batch,
            "draft_length": recipe.draft_length,
            "corrected_positions": sum(r.corrected for r in recorded),
            "device": str(pair.target.device),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "laps_env": __version__,
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        consistent=not lookup and pair.drafter_kind == "draft-model",
    )
    trace = assemble(recorded, categories, info, lookup=lookup)
    trace.save(path)
    rounds = trace.accepted_length if lookup or trace.committed is None else trace.committed
    accepted = rounds.astype(int) - (0 if lookup else 1)
    print(f"{path}: {trace.num_requests} requests, {accepted.mean():.3f} accepted")
