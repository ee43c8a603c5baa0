"""``laps-env record``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from laps_env.cli.command import progress
from laps_env.cli.models import OnModels
from laps_env.utils.files import outputs


@dataclass(frozen=True, kw_only=True)
class Record(OnModels):
    """Record acceptance traces of a pair of models from prompt files.

    Writes NAME-train.safetensors and NAME-test.safetensors for the drafter, and the same with
    -lookup for prompt lookup on the same texts; no text is kept. Finished requests go to a journal
    in the folder, so the same command goes on where it was stopped.

    $ laps-env record --prompts questions.jsonl --out traces --name pair --target big --draft small
    """

    prompts: tuple[str, ...]
    """Prompt files."""
    out: Path
    """Folder of the traces, which exists."""
    name: str
    """Name with which the files begin."""
    limit: int = 320
    """Most output tokens of a request."""
    longest: int = 2048
    """Most prompt tokens of a request."""
    batch: int = 24
    """Requests that are recorded at once."""
    draft_length: int = 2
    """Tokens that are drafted in a round."""
    temperature: float = 0.0
    """Temperature of target and draft; 0 is greedy. Above it the traces hold the probability that
    the draft's token is accepted, of which every workload draws."""
    overwrite: bool = False
    """Replace traces that are there."""

    resumes: ClassVar[bool] = True

    def run(self) -> int:
        """Record and write."""
        from laps_env.live.measure.record import Recipe, record_traces, trace_paths

        if not self.out.is_dir():
            raise ValueError(f"out: expected an existing folder, got {self.out}")
        if Path(self.name).name != self.name:
            raise ValueError(f"name: expected the beginning of a file name, got {self.name!r}")
        recipe = Recipe(
            self.prompts,
            self.limit,
            self.longest,
            self.batch,
            self.draft_length,
            self.temperature,
        )
        paths = trace_paths(self.out, self.name).values()
        with outputs(*paths, inputs=self.prompts, overwrite=self.overwrite):
            pair = self.load_models("float32")
            record_traces(pair, recipe, self.out, self.name, _watched)
        return 0


def _watched(parts: Iterator[Any], total: int, name: str) -> Iterator[Any]:
    with progress(total, unit="request", desc=name) as bar:
        for part in parts:
            yield part
            bar.update()
