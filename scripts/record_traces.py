"""Record acceptance traces of a pair of models from prompt files.

Writes NAME-train.safetensors and NAME-test.safetensors for the drafter, and the same with
``-lookup`` for prompt lookup on the same texts; no text is kept. Finished requests go to a journal
in the folder, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm

from laps_env import __version__
from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET, Pair, load_pair
from laps_env.live.measure.recording import Job, Recorded, Recorder, assemble
from laps_env.live.prompts import RECORDED_PARTS, Part, encode, partition, read_questions
from laps_env.traces import TraceInfo
from laps_env.utils.journal import LineJournal


def entry_of(part: Part, group: int, turns: list[Recorded]) -> dict[str, Any]:
    """A recorded question with all its turns, as the journal keeps it."""
    return {"part": part, "group": group, "turns": [asdict(turn) for turn in turns]}


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
    journal = LineJournal(options.out / f"{options.name}.journal", settings)
    recorded = {
        (entry["part"], entry["group"]): [Recorded(**turn) for turn in entry["turns"]]
        for entry in journal.entries
    }
    pair = load_pair(options.target, options.draft, device=options.device, dtype="float32")
    recorder = Recorder(
        pair,
        limit=options.limit,
        longest=options.longest,
        batch=options.batch,
        draft_length=options.draft_length,
    )
    categories = sorted({q.category for q in read_questions(options.prompts)})
    for part in RECORDED_PARTS:
        jobs = jobs_of(pair, options.prompts, part, options.longest)
        waiting = [job for job in jobs if (part, job.group) not in recorded]
        for job, turns in tqdm(recorder.record(waiting), total=len(waiting), desc=part):
            journal.add(entry_of(part, job.group, turns))
            recorded[part, job.group] = turns
        done = [turn for job in jobs for turn in recorded[part, job.group]]
        write(options, pair, part, done, categories)
    journal.remove()


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
        name = f"{options.name}{'-lookup' if lookup else ''}-{part}.safetensors"
        trace = assemble(recorded, categories, info, lookup=lookup)
        trace.save(options.out / name)
        accepted = trace.committed.astype(int) - 1 if not lookup else trace.accepted_length
        print(
            f"{options.out / name}: {trace.num_requests} requests, {accepted.mean():.3f} accepted"
        )


if __name__ == "__main__":
    main()
