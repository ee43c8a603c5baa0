"""Throughput of the live engine beside transformers' own generation, for `bench_live`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from laps_env.live.engine.drafters import PromptLookup
from laps_env.live.engine.engine import Engine
from laps_env.live.engine.loading import PROMPT_LOOKUP, Pair

BATCH = 8

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


def describe_setting(setting: Setting) -> str:
    """For a table."""
    names = {"draft_length": "n", "confidence": "threshold"}
    return ", ".join(f"{names[key]} {value}" for key, value in setting.items()) or "as it is"
