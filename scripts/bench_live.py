"""Measure the live server beside transformers on the device at hand, all in one run.

Throughput of the engine at batch 8 against transformers' own assisted generation (which knows only
batch 1) and its plain batched generation, on the same prompts; a round at batch 1 against the time
that reading the weights takes; and the share of environment and rule in a round. Prints tables and
writes bench-live.json. Nothing here is asserted: machines differ, so read the ratios. Give the
device to this script alone while it runs.

Every draft length is tried once, after a warm-up; the best of each contender is then measured,
contenders one after the other in every repetition. Transformers' assisted generation cannot use a
draft head: then prompt lookup, which both sides have, is what compares them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from calibrate import describe, numbers
from live_floor import floors
from live_throughput import contenders, describe_setting, ratios, throughput
from transformers import GenerationConfig

from laps_env import policies
from laps_env.evaluation.episodes import play
from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET, PROMPT_LOOKUP, Pair, load_pair
from laps_env.live.env import SpecDecodeLive
from laps_env.live.prompts import DEMO_PROMPTS, encode, read_questions
from laps_env.utils.checks import check_count
from laps_env.utils.files import check_output, write_beside
from laps_env.workloads.scenarios import get_scenario

#: Prompts that the rounds at batch 1 are timed on.
ROUND_PROMPTS = 4

#: An episode of the environment: long enough for a queue, short enough for a small machine.
EPISODE_REQUESTS = 12


def scheduling(
    pair: Pair, scenario: str, prompts: Path, limit: int, repeats: int
) -> list[dict[str, Any]]:
    """Seconds outside rounds over seconds in rounds, of episodes under LAPS-SD."""
    rows = []
    for batch in sorted({1, get_scenario(scenario).server.batch_size}):
        env = SpecDecodeLive(
            target=pair,
            scenario=scenario,
            prompts=(str(prompts),),
            max_new_tokens=limit,
            num_requests=EPISODE_REQUESTS,
            batch_size=batch,
        )
        rule = policies.make("laps_sd", get_scenario(scenario))
        plays = [play(rule, env, seed=0)["summary"] for _ in range(repeats + 1)]
        plays = plays[1:]  # the first compiles
        env.close()
        outside = [p["scheduling_s"] for p in plays]
        within = [p["utilization"] * p["makespan_s"] for p in plays]
        shares = [a / b for a, b in zip(outside, within, strict=True)]
        rows.append(
            {
                "scenario": scenario,
                "batch": batch,
                "scheduling_s": outside,
                "rounds_s": within,
                "shares": shares,
                "share": statistics.median(shares),
            }
        )
    return rows


def print_tables(document: dict[str, Any], prompts: int) -> None:
    """What was measured."""
    print(
        f"\n{'output tokens/s':36}{'setting':>22}{'median':>9}{'least':>9}{'most':>9}  same texts"
    )
    for row in document["throughput"]:
        rates = row["rates"]
        print(
            f"{row['name']:36}{describe_setting(row['setting']):>22}{row['tokens_per_s']:9.1f}"
            f"{min(rates):9.1f}{max(rates):9.1f}{row['equal_texts']:6} of {prompts}"
        )
    print(f"\n{'engine over transformers':57}{'ratio':>7}{'least':>7}{'most':>7}")
    for r in document["ratios"]:
        name = f"{r['engine']} / {r['peer']}"
        print(f"{name:57}{r['ratio']:7.2f}{r['least']:7.2f}{r['most']:7.2f}")
    floor = document["floor"]
    speed = ", ".join(f"{name} {v / 1e9:.1f} GB/s" for name, v in floor["bytes_per_s"].items())
    print(
        f"\na round at batch 1; {speed}; weights: target {floor['target_bytes'] / 1e6:.1f} MB, "
        f"draft step {floor['draft_step_bytes'] / 1e6:.1f} MB"
    )
    print(f"{'n':>4}{'rounds':>8}{'floor ms':>11}{'median ms':>11}{'least':>9}{'ratio':>8}")
    for r in floor["rounds"]:
        print(
            f"{r['draft_length']:4}{r['rounds']:8}{r['floor_s'] * 1e3:11.3f}"
            f"{r['median_s'] * 1e3:11.3f}{r['least_s'] * 1e3:9.3f}{r['ratio']:8.2f}"
        )
    print("\nenvironment and rule (laps_sd) over rounds")
    for r in document["scheduling"]:
        print(
            f"{r['scenario']}, batch {r['batch']}: {r['share']:.2%} "
            f"({min(r['shares']):.2%} to {max(r['shares']):.2%})"
        )


def run(pair: Pair, arguments: argparse.Namespace) -> None:
    """Measure, print, write."""
    questions = read_questions([arguments.prompts])[: arguments.num_prompts]
    prompts = [encode(pair.tokenizer, question.turns[:1]) for question in questions]
    limit, lengths = arguments.limit, arguments.draft_lengths
    # what a checkpoint adds to its own generation (a repetition penalty) is no greedy decoding
    pair.target.generation_config = GenerationConfig()
    found, engine = contenders(pair, limit, max(map(len, prompts)), lengths)
    rows = throughput(
        found,
        prompts,
        arguments.repeats,
        lambda line: print(line, flush=True),
        warm_all=pair.target.device.type == "cuda",
    )
    document = {
        **describe(pair),
        "prompts": {"file": arguments.prompts.name, "number": len(prompts), "limit": limit},
        "throughput": rows,
        "ratios": ratios(rows),
        "floor": floors(pair, engine, prompts[:ROUND_PROMPTS], limit, lengths),
        "scheduling": scheduling(
            pair, arguments.scenario, arguments.prompts, limit, arguments.repeats
        ),
    }
    print_tables(document, len(prompts))
    write_beside(arguments.out, [(json.dumps(document, indent=1) + "\n").encode()])
    print(f"\nwritten: {arguments.out}")


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default=str(DEMO_TARGET), help="folder or hub model")
    parser.add_argument(
        "--draft", default=str(DEMO_DRAFT), help=f"folder, hub model or {PROMPT_LOOKUP}"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16")
    parser.add_argument("--prompts", type=Path, default=Path(DEMO_PROMPTS))
    parser.add_argument("--num-prompts", type=int, help="the first of them only")
    parser.add_argument("--scenario", default="demo", help="of the environment's episodes")
    parser.add_argument("--draft-lengths", type=numbers, default=(0, 1, 2, 3, 4, 5))
    parser.add_argument("--repeats", type=int, default=5, help="medians are over so many")
    parser.add_argument("--limit", type=int, default=64, help="output tokens of a prompt")
    parser.add_argument("--out", type=Path, default=Path("bench-live.json"))
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    arguments = parser.parse_args(argv)
    try:
        check_output(arguments.out)
        for name in ("repeats", "limit"):
            check_count(name, getattr(arguments, name))
        for name in ("threads", "num_prompts"):
            check_count(name, getattr(arguments, name), optional=True)
        for length in arguments.draft_lengths:
            check_count("draft-lengths", length, least=0)
        if not any(arguments.draft_lengths):
            raise ValueError("draft-lengths: expected one of at least 1, got none")
        get_scenario(arguments.scenario)
        if arguments.threads is not None:
            torch.set_num_threads(arguments.threads)
        pair = load_pair(
            arguments.target, arguments.draft, device=arguments.device, dtype=arguments.dtype
        )
    except ValueError as reason:
        parser.error(str(reason))
    run(pair, arguments)


if __name__ == "__main__":
    main()
