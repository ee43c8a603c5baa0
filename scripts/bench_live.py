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
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from calibrate import describe, numbers
from transformers import GenerationConfig, PreTrainedModel

import policies
from laps_env.checks import check_count
from laps_env.files import check_output, write_beside
from laps_env.live.drafters import PromptLookup
from laps_env.live.engine import Engine
from laps_env.live.env import SpecDecodeLive
from laps_env.live.evaluation import play
from laps_env.live.head import DraftHead
from laps_env.live.loading import DEMO_DRAFT, DEMO_TARGET, PROMPT_LOOKUP, Pair, load_pair
from laps_env.live.prompts import DEMO_PROMPTS, encode, read_questions
from laps_env.scenarios import get_scenario

BATCH = 8

#: Prompts that the rounds at batch 1 are timed on, and what is read to measure the bandwidth.
ROUND_PROMPTS = 4
READ_BYTES = 400_000_000

#: An episode of the environment: long enough for a queue, short enough for a small machine.
EPISODE_REQUESTS = 12

Texts = list[list[int]]
Setting = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """One way to generate the texts.

    Attributes:
        name: of its row.
        generate: output tokens of some prompts, with a setting's values.
        settings: to choose the fastest from.
    """

    name: str
    generate: Callable[..., Texts]
    settings: tuple[Setting, ...] = ({},)


class Ours:
    """The engine at batch 8: who has finished makes room for the next prompt.

    Args:
        engine: with as many slots.
        limit: output tokens.
    """

    def __init__(self, engine: Engine, limit: int) -> None:
        self.engine = engine
        self.limit = limit

    def __call__(self, prompts: Texts, draft_length: int = 0) -> Texts:
        all_of_them = [self.engine.start(prompt, self.limit) for prompt in prompts]
        waiting, running = all_of_them[::-1], []
        while waiting or running:
            while waiting and len(running) < BATCH:
                running.append(waiting.pop())
            self.engine.run_round(running, draft_length)
            running = [g for g in running if not g.finished]
        return [g.output for g in all_of_them]


class Theirs:
    """`generate` of transformers, greedy, with the attention that it would choose by itself.

    Args:
        pair: whose target generates.
        limit: output tokens.
    """

    def __init__(self, pair: Pair, limit: int) -> None:
        self.target = pair.target
        self.draft = pair.draft
        self.stops = sorted(pair.stop_tokens)
        self.limit = limit

    def batched(self, prompts: Texts) -> Texts:
        """Plain generation: so many left-padded prompts at once, until the last has ended."""
        return self._in_parts(prompts, BATCH, {})

    def with_model(self, prompts: Texts, draft_length: int, confidence: float) -> Texts:
        """Assisted by the draft model, one prompt after the other."""
        assert isinstance(self.draft, PreTrainedModel)  # contenders() asked
        self.draft.generation_config = GenerationConfig(
            num_assistant_tokens=draft_length,
            num_assistant_tokens_schedule="constant",
            assistant_confidence_threshold=confidence,
        )
        with _attention_of_transformers(self.draft):
            return self._in_parts(prompts, 1, {"assistant_model": self.draft})

    def with_lookup(self, prompts: Texts, draft_length: int) -> Texts:
        """Assisted by prompt lookup, one prompt after the other."""
        options = {
            "prompt_lookup_num_tokens": draft_length,
            "max_matching_ngram_size": PromptLookup().longest_match,
        }
        return self._in_parts(prompts, 1, options)

    def _in_parts(self, prompts: Texts, size: int, options: dict[str, Any]) -> Texts:
        parts = [prompts[i : i + size] for i in range(0, len(prompts), size)]
        with _attention_of_transformers(self.target):
            return [text for part in parts for text in self._generate(part, options)]

    def _generate(self, prompts: Texts, options: dict[str, Any]) -> Texts:
        device, longest = self.target.device, max(map(len, prompts))
        padding = [longest - len(prompt) for prompt in prompts]
        padded = [[0] * n + prompt for n, prompt in zip(padding, prompts, strict=True)]
        mask = [[0] * n + [1] * (longest - n) for n in padding]
        out = self.target.generate(
            torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            do_sample=False,
            max_new_tokens=self.limit,
            eos_token_id=self.stops or None,
            pad_token_id=self.stops[0] if self.stops else 0,
            **options,
        )
        return [self._until_stop(row) for row in out[:, longest:].tolist()]

    def _until_stop(self, output: list[int]) -> list[int]:
        ends = [i for i, token in enumerate(output) if token in self.stops]
        return output[: ends[0] + 1] if ends else output


@contextmanager
def _attention_of_transformers(model: PreTrainedModel) -> Iterator[None]:
    """The engine gives its models an attention of its own; take it away for a while."""
    ours = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(ours)


def contenders(
    pair: Pair, limit: int, longest: int, lengths: Sequence[int]
) -> tuple[list[Contender], Engine]:
    """All of them, plain batched generation first, and the engine with the pair's own drafter."""
    theirs = Theirs(pair, limit)
    room = {"slots": BATCH, "length": longest + limit + max(lengths)}
    engine = pair.engine(**room)
    ours = [{"draft_length": n} for n in lengths]
    assisted = [{"draft_length": n} for n in lengths if n]
    found = [
        Contender("transformers, plain, batch 8", theirs.batched),
        Contender("engine, no draft", Ours(engine, limit)),
        Contender(f"engine, {pair.drafter_kind}", Ours(engine, limit), tuple(ours)),
    ]
    if pair.drafter_kind == "draft-model":
        # 0.4 is transformers' default: a draft ends early where the model is not sure
        both = [{**setting, "confidence": c} for c in (0.0, 0.4) for setting in assisted]
        found.append(
            Contender("transformers, draft-model, batch 1", theirs.with_model, tuple(both))
        )
    if pair.drafter_kind != "ngram":
        lookup = replace(pair, draft=None, draft_name=PROMPT_LOOKUP).engine(**room)
        found.append(Contender("engine, ngram", Ours(lookup, limit), tuple(ours)))
    found.append(Contender("transformers, ngram, batch 1", theirs.with_lookup, tuple(assisted)))
    return found, engine


def throughput(
    found: Sequence[Contender],
    prompts: Texts,
    repeats: int,
    report: Callable[[str], None],
    *,
    warm_all: bool,
) -> list[dict[str, Any]]:
    """Output tokens per second of every contender; the first is what texts are compared with.

    Args:
        found: the contenders.
        prompts: token ids.
        repeats: counted repetitions.
        report: told of each measurement.
        warm_all: warm up on all prompts, where first passes are dear, else on the first batch.
    """
    rows: list[dict[str, Any]] = []
    for contender in found:
        tried = []
        for setting in contender.settings:
            contender.generate(prompts if warm_all else prompts[:BATCH], **setting)
            rate, texts = _rate(contender, prompts, setting)
            tried.append({**setting, "tokens_per_s": rate})
            report(f"tuning: {contender.name}, {describe_setting(setting)}: {rate:.1f} tokens/s")
        best = max(tried, key=lambda t: t["tokens_per_s"])
        setting = {name: value for name, value in best.items() if name != "tokens_per_s"}
        rows.append({"name": contender.name, "setting": setting, "tried": tried, "rates": []})
    for repetition in range(repeats):
        for contender, row in zip(found, rows, strict=True):
            rate, texts = _rate(contender, prompts, row["setting"])
            row["rates"].append(rate)
            row["texts"] = texts
        report(f"repetition {repetition + 1} of {repeats}")
    reference = rows[0]["texts"]
    for row in rows:
        texts = row.pop("texts")
        row["tokens_per_s"] = statistics.median(row["rates"])
        row["tokens"] = sum(map(len, texts))
        row["equal_texts"] = equal(texts, reference)
    return rows


def _rate(contender: Contender, prompts: Texts, setting: Setting) -> tuple[float, Texts]:
    begin = time.perf_counter()
    texts = contender.generate(prompts, **setting)  # lists: the device has done all of it
    return sum(map(len, texts)) / (time.perf_counter() - begin), texts


def equal(texts: Texts, reference: Texts) -> int:
    """How many are the same."""
    return sum(own == other for own, other in zip(texts, reference, strict=True))


def ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The engine over transformers: medians, and the least and the most within a repetition."""
    engine = [row for row in rows if row["name"].startswith("engine")]
    peers = [row for row in rows if row["name"].startswith("transformers")]
    found = []
    for own in engine:
        for peer in peers:
            within = [a / b for a, b in zip(own["rates"], peer["rates"], strict=True)]
            ratio = own["tokens_per_s"] / peer["tokens_per_s"]
            found.append(
                {
                    "engine": own["name"],
                    "peer": peer["name"],
                    "ratio": ratio,
                    "least": min(within),
                    "most": max(within),
                }
            )
    return found


def pass_bytes(model: PreTrainedModel | DraftHead | None, target: PreTrainedModel) -> int:
    """Bytes of weights that a pass reads, tied ones once; rows of an embedding count as nothing.

    Args:
        model: the target, or what drafts for it (a head also reads its part of the target's output
            weights).
        target: the target.
    """
    if model is None:
        return 0
    if isinstance(model, DraftHead):
        borrowed = model.config.frequent_tokens * model.config.width
        own = sum(parameter.numel() for parameter in model.parameters())
        return (own + borrowed) * target.dtype.itemsize
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    apart = embedding.weight is not output.weight
    return sum(p.nbytes for p in model.parameters()) - apart * embedding.weight.nbytes


def bandwidth(device: torch.device, repeats: int = 20) -> dict[str, float]:
    """Bytes per second of the best of some reads (a sum) and copies (read and written)."""
    source = torch.ones(READ_BYTES // 4, device=device)
    place = torch.empty_like(source)
    return {
        "read": READ_BYTES / _shortest(source.sum, device, repeats),
        "copy": 2 * READ_BYTES / _shortest(lambda: place.copy_(source), device, repeats),
    }


def _shortest(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        begin = _now(device)
        work()
        seconds.append(_now(device) - begin)
    return min(seconds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def round_times(engine: Engine, prompts: Texts, limit: int, draft_length: int) -> list[float]:
    """Seconds of rounds at batch 1 that drafted so many tokens; prefills are not among them."""
    seconds = []
    for prompt in prompts:
        generation = engine.start(prompt, limit)
        engine.run_round([generation], draft_length)
        while not generation.finished:
            begin = time.perf_counter()
            (result,) = engine.run_round([generation], draft_length)
            if result.drafted == draft_length:
                seconds.append(time.perf_counter() - begin)
    return seconds


def floors(
    pair: Pair, engine: Engine, prompts: Texts, limit: int, lengths: Sequence[int]
) -> dict[str, Any]:
    """A round at batch 1 beside the time that reading its weights once a pass takes."""
    speed = bandwidth(pair.target.device)
    target, draft = (pass_bytes(m, pair.target) for m in (pair.target, pair.draft))
    rows = []
    for n in lengths:
        round_times(engine, prompts, limit, n)  # warms up
        seconds = round_times(engine, prompts, limit, n)
        if not seconds:
            continue
        floor = (target + n * draft) / max(speed.values())
        median = statistics.median(seconds)
        rows.append(
            {
                "draft_length": n,
                "rounds": len(seconds),
                "floor_s": floor,
                "median_s": median,
                "least_s": min(seconds),
                "most_s": max(seconds),
                "ratio": median / floor,
            }
        )
    return {
        "bytes_per_s": speed,
        "target_bytes": target,
        "draft_step_bytes": draft,
        "rounds": rows,
    }


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
        plays = [play(rule, env, seed=0) for _ in range(repeats + 1)][1:]  # the first compiles
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


def describe_setting(setting: Setting) -> str:
    """For a table."""
    names = {"draft_length": "n", "confidence": "threshold"}
    return ", ".join(f"{names[key]} {value}" for key, value in setting.items()) or "as it is"


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
