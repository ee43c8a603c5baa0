"""Record acceptance traces of a pair of models from prompt files.

Writes NAME-train.atrace and NAME-test.atrace for the drafter, and the same with ``-lookup`` for
prompt lookup on the same texts; no text is kept. Finished requests go to a journal in the folder,
so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm

from laps_env import __version__
from laps_env.live.loading import DEMO_DRAFT, DEMO_TARGET, Pair, load_pair
from laps_env.live.prompts import Part, encode, partition, read_questions
from laps_env.live.recording import Job, Recorded, Recorder, assemble
from laps_env.traces import TraceInfo

PARTS: tuple[Part, ...] = ("record-train", "record-test")


class Journal:
    """Recorded questions with all their turns, one line each, by (part, number)."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.done: dict[tuple[str, int], list[Recorded]] = {}
        head = json.dumps(settings)
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        if lines and lines[0].rstrip("\n") != head:
            raise ValueError(f"{path}: expected a journal of {head}, got one of {lines[0]}")
        # the last line may have been cut in the middle
        whole = [line for line in lines if line.endswith("\n")]
        path.write_text("".join(whole) or head + "\n")
        for line in whole[1:]:
            entry = json.loads(line)
            self.done[entry["part"], entry["group"]] = [Recorded(**r) for r in entry["turns"]]

    def add(self, part: str, group: int, turns: list[Recorded]) -> None:
        self.done[part, group] = turns
        with self.path.open("a") as file:
            entry = {"part": part, "group": group, "turns": [asdict(turn) for turn in turns]}
            file.write(json.dumps(entry) + "\n")


def jobs_of(pair: Pair, files: list[str], part: Part, longest: int) -> list[Job]:
    """One job per question of the part whose first prompt is not too long."""
    return [
        Job(group, question)
        for group, question in enumerate(partition(read_questions(files))[part])
        if len(encode(pair.tokenizer, question.turns[:1])) <= longest
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", nargs="+", required=True, help="prompt files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the traces")
    parser.add_argument("--name", required=True, help="the traces' name")
    parser.add_argument("--target", default=DEMO_TARGET, help="folder or hub name")
    parser.add_argument("--draft", default=DEMO_DRAFT, help="folder or hub name")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, default=320, help="most output tokens")
    parser.add_argument("--longest", type=int, default=2048, help="most prompt tokens")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--draft-length", type=int, default=2)
    options = parser.parse_args()
    try:
        record(options)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted: the same command goes on where this one was\n")


def record(options: argparse.Namespace) -> None:
    if not options.out.is_dir():
        raise ValueError(f"out: expected an existing folder, got {options.out}")
    settings = {
        name: str(getattr(options, name)) if name in ("target", "draft") else getattr(options, name)
        for name in ("target", "draft", "prompts", "limit", "longest", "batch", "draft_length")
    }
    journal = Journal(options.out / f"{options.name}.journal", settings)
    pair = load_pair(options.target, options.draft, device=options.device, dtype="float32")
    recorder = Recorder(
        pair,
        limit=options.limit,
        longest=options.longest,
        batch=options.batch,
        draft_length=options.draft_length,
    )
    categories = sorted({q.category for q in read_questions(options.prompts)})
    for part in PARTS:
        jobs = jobs_of(pair, options.prompts, part, options.longest)
        waiting = [job for job in jobs if (part, job.group) not in journal.done]
        for job, turns in tqdm(recorder.record(waiting), total=len(waiting), desc=part):
            journal.add(part, job.group, turns)
        done = [turn for job in jobs for turn in journal.done[part, job.group]]
        write(options, pair, part, done, categories)
    journal.path.unlink()


def write(
    options: argparse.Namespace,
    pair: Pair,
    part: Part,
    recorded: list[Recorded],
    categories: list[str],
) -> None:
    """The two traces of a part."""
    for lookup in (False, True):
        info = TraceInfo(
            drafter="ngram" if lookup else pair.drafter_kind,
            target_model=Path(pair.target_name).name,
            draft_model="prompt lookup" if lookup else Path(pair.draft_name).name,
            decoding={"temperature": 0.0, "max_new_tokens": options.limit, "dtype": "float32"},
            provenance={
                "part": part,
                "prompts": [Path(path).name for path in options.prompts],
                "batch": options.batch,
                "draft_length": options.draft_length,
                "corrected_positions": sum(r.corrected for r in recorded),
                "device": str(pair.target.device),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "laps_env": __version__,
            },
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            consistent=not lookup and pair.drafter_kind == "draft-model",
        )
        name = f"{options.name}{'-lookup' if lookup else ''}-{part.removeprefix('record-')}.atrace"
        trace = assemble(recorded, categories, info, lookup=lookup)
        trace.save(options.out / name)
        accepted = trace.committed.astype(int) - 1 if not lookup else trace.accept_run
        print(
            f"{options.out / name}: {trace.num_requests} requests, {accepted.mean():.3f} accepted"
        )


if __name__ == "__main__":
    main()
