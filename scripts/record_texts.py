"""Record traces as `laps-env record` does, and keep the texts, which `fit_refreshed.py` reads.

A line of the file of texts is a turn: the name of its question, its number, and the tokens of
prompt and output. It holds texts of the prompt files: keep it out of what is published. The same
command goes on where it was stopped; a turn may then come twice, and is the same both times.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from tqdm import tqdm

from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET, load_pair
from laps_env.live.measure.record import Recipe, record_traces
from laps_env.live.measure.recording import Recorded, Recorder


class Turn(NamedTuple):
    """An answered turn; the tokens of all that was said before are its prompt."""

    question: str
    turn: int
    prompt: list[int]
    output: list[int]


class TextRecorder(Recorder):
    """A recorder that also writes down the texts."""

    path: ClassVar[Path]

    def _measure(self, c) -> Recorded:
        recorded = super()._measure(c)
        output = c.generation.output[: recorded.output_tokens]
        turn = Turn(c.question.name, len(c.recorded), c.generation.prompt, output)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(turn._asdict()) + "\n")
        return recorded


def read_turns(path: Path) -> dict[tuple[str, int], Turn]:
    """The turns of a file by question and number."""
    lines = path.read_text(encoding="utf-8").splitlines()
    turns = (Turn(**json.loads(line)) for line in lines)
    return {(turn.question, turn.turn): turn for turn in turns}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", nargs="+", required=True, help="prompt files")
    parser.add_argument("--out", type=Path, required=True, help="folder of traces and texts")
    parser.add_argument("--name", required=True, help="name with which the files begin")
    parser.add_argument("--target", default=DEMO_TARGET, help="folder or hub name of the target")
    parser.add_argument("--draft", default=DEMO_DRAFT, help="draft, likewise")
    options = parser.parse_args()
    TextRecorder.path = options.out / f"{options.name}-texts.jsonl"
    pair = load_pair(options.target, options.draft, dtype="float32")
    recipe = Recipe(tuple(options.prompts))
    record_traces(pair, recipe, options.out, options.name, watched, TextRecorder)


def watched(parts: Iterator[Any], total: int, name: str) -> Iterator[Any]:
    """The parts, with a bar of how many there have been."""
    return iter(tqdm(parts, total=total, desc=name))


if __name__ == "__main__":
    main()
