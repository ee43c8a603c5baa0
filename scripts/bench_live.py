"""Measure the live server beside transformers on the device at hand, all in one run.

    python scripts/bench_live.py --repeats 3
    python scripts/bench_live.py --device cuda --draft-lengths 0 2 4

Throughput of the engine at batch 8 against transformers' own assisted generation (which knows only
batch 1) and its plain batched generation, on the same prompts; a round at batch 1 against the time
that reading the weights takes; and the share of environment and rule in a round. Prints tables and
writes a JSON file. Nothing here is asserted: machines differ, so read the ratios. Give the device
to this script alone while it runs.

Every draft length is tried once, after a warm-up; the best of each contender is then measured,
contenders one after the other in every repetition. Transformers' assisted generation cannot use a
draft head: then prompt lookup, which both sides have, is what compares them.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from live_floor import floors
from live_throughput import contenders, describe_setting, ratios, throughput
from transformers import GenerationConfig

from laps_env import policies
from laps_env.evaluation.episodes import play
from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET, Pair, load_pair
from laps_env.live.env import SpecDecodeLive
from laps_env.live.measure.machine import describe
from laps_env.live.prompts import DEMO_PROMPTS, encode, read_questions
from laps_env.report.tables import markdown_table
from laps_env.utils.checks import check_count
from laps_env.utils.files import check_output, write_beside
from laps_env.workloads.scenarios import get_scenario

#: Prompts that the rounds at batch 1 are timed on.
ROUND_PROMPTS = 4

#: An episode of the environment: long enough for a queue, short enough for a small machine.
EPISODE_REQUESTS = 12

#: What is printed of each part of the results.
TABLES = {
    "throughput": ("name", "setting", "tokens_per_s", "least", "most", "equal_texts"),
    "ratios": ("engine", "peer", "ratio", "least", "most"),
    "rounds": ("draft_length", "rounds", "floor_s", "median_s", "least_s", "ratio"),
    "scheduling": ("scenario", "batch", "share", "least", "most"),
}


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        target: Folder or hub model.
        draft: Folder, hub model or prompt-lookup.
        device: Device: auto, cpu, cuda or cuda:N.
        dtype: Type of the weights: auto, float32, bfloat16 or float16.
        threads: Threads of torch on the CPU.
        prompts: Prompt file.
        num_prompts: Number of its first prompts that are used, all by default.
        scenario: Scenario of the environment's episodes.
        draft_lengths: Draft lengths that are tried.
        repeats: Repetitions that medians are over.
        limit: Output tokens of a prompt, at most.
        out: Results file.

    Raises:
        ValueError: A value out of range.
    """

    target: str = str(DEMO_TARGET)
    draft: str = str(DEMO_DRAFT)
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    prompts: Path = Path(DEMO_PROMPTS)
    num_prompts: int | None = None
    scenario: str = "demo"
    draft_lengths: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    repeats: int = 5
    limit: int = 64
    out: Path = Path("bench-live.json")

    def __post_init__(self) -> None:
        check_output(self.out)
        for name in ("repeats", "limit"):
            check_count(name, getattr(self, name))
        for name in ("threads", "num_prompts"):
            check_count(name, getattr(self, name), optional=True)
        for length in self.draft_lengths:
            check_count("draft-lengths", length, least=0)
        if not any(self.draft_lengths):
            raise ValueError("draft-lengths: expected one of at least 1, got none")
        get_scenario(self.scenario)


def scheduling(pair: Pair, options: Options) -> list[dict[str, Any]]:
    """Seconds outside rounds over seconds in rounds, of episodes under LAPS-SD."""
    scenario = get_scenario(options.scenario)
    found = []
    for batch in sorted({1, scenario.server.batch_size}):
        env = SpecDecodeLive(
            target=pair,
            scenario=scenario.name,
            prompts=(str(options.prompts),),
            max_new_tokens=options.limit,
            num_requests=EPISODE_REQUESTS,
            batch_size=batch,
        )
        rule = policies.make("laps_sd", scenario)
        plays = [play(rule, env, seed=0)["summary"] for _ in range(options.repeats + 1)]
        plays = plays[1:]  # the first compiles
        env.close()
        outside = [p["scheduling_s"] for p in plays]
        within = [p["utilization"] * p["makespan_s"] for p in plays]
        shares = [a / b for a, b in zip(outside, within, strict=True)]
        found.append(
            {
                "scenario": scenario.name,
                "batch": batch,
                "scheduling_s": outside,
                "rounds_s": within,
                "shares": shares,
                "share": statistics.median(shares),
                "least": min(shares),
                "most": max(shares),
            }
        )
    return found


def print_tables(document: dict[str, Any]) -> None:
    """Print what was measured as tables in Markdown."""
    for name, columns in TABLES.items():
        lines = [[cell(entry[column]) for column in columns] for entry in document[name]]
        print("\n" + markdown_table((f"{name}: {columns[0]}", *columns[1:]), lines))
    floor = document["floor"]
    print("\n" + ", ".join(f"{k} {v / 1e9:.1f} GB/s" for k, v in floor["bytes_per_s"].items()))
    for weights in ("target_bytes", "draft_step_bytes"):
        print(f"{weights} {floor[weights] / 1e6:.1f} MB")


def cell(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, dict):
        return describe_setting(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run(pair: Pair, options: Options) -> None:
    """Measure, print, write."""
    questions = read_questions([options.prompts])[: options.num_prompts]
    prompts = [encode(pair.tokenizer, question.turns[:1]) for question in questions]
    limit, lengths = options.limit, options.draft_lengths
    # what a checkpoint adds to its own generation (a repetition penalty) is no greedy decoding
    pair.target.generation_config = GenerationConfig()
    found, engine = contenders(pair, limit, max(map(len, prompts)), lengths)
    warm_all = pair.target.device.type == "cuda"
    say = partial(print, flush=True)
    measured = throughput(found, prompts, options.repeats, say, warm_all=warm_all)
    document = {
        **describe(pair),
        "prompts": {"file": options.prompts.name, "number": len(prompts), "limit": limit},
        "throughput": measured,
        "ratios": ratios(measured),
        **floors(pair, engine, prompts[:ROUND_PROMPTS], limit, lengths),
        "scheduling": scheduling(pair, options),
    }
    print_tables(document)
    write_beside(options.out, [(json.dumps(document, indent=1) + "\n").encode()])
    print(f"\nwritten: {options.out}")


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    try:
        options = tyro.cli(Options, args=argv, description=__doc__)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        pair = load_pair(options.target, options.draft, device=options.device, dtype=options.dtype)
    except ValueError as reason:
        sys.exit(f"bench_live: error: {reason}")
    run(pair, options)


if __name__ == "__main__":
    main()
