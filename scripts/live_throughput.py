"""Throughput of the live engine beside transformers' own generation, for `bench_live`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
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
        name: Name in the tables.
        generate: Function from prompts and a setting's values to output tokens.
        settings: Settings to choose the fastest from.
    """

    name: str
    generate: Callable[..., Texts]
    settings: tuple[Setting, ...] = ({},)


def with_engine(engine: Engine, limit: int, prompts: Texts, draft_length: int = 0) -> Texts:
    """Texts by the engine at batch 8: who has finished makes room for the next prompt."""
    generations = [engine.start(prompt, limit) for prompt in prompts]
    while running := [g for g in generations if not g.finished][:BATCH]:
        engine.run_round(running, draft_length)
    return [g.output for g in generations]


class Transformers:
    """`generate` of transformers, greedy, with the attention that it would choose by itself.

    Args:
        pair: Pair whose target generates.
        limit: Output tokens, at most.
    """

    def __init__(self, pair: Pair, limit: int) -> None:
        self.target = pair.target
        self.draft = pair.draft
        self.stops = sorted(pair.stop_tokens)
        self.limit = limit

    def batched(self, prompts: Texts) -> Texts:
        """Plain generation: so many left-padded prompts at once, until the last has ended."""
        return self._in_parts(prompts, BATCH)

    def with_model(self, prompts: Texts, draft_length: int, confidence: float) -> Texts:
        """Generation assisted by the draft model, one prompt after the other."""
        assert isinstance(self.draft, PreTrainedModel)  # contenders() asked
        self.draft.generation_config = GenerationConfig(
            num_assistant_tokens=draft_length,
            num_assistant_tokens_schedule="constant",
            assistant_confidence_threshold=confidence,
        )
        with _attention_of_transformers(self.draft):
            return self._in_parts(prompts, 1, assistant_model=self.draft)

    def with_lookup(self, prompts: Texts, draft_length: int) -> Texts:
        """Generation assisted by prompt lookup, one prompt after the other."""
        match = PromptLookup().longest_match
        return self._in_parts(
            prompts, 1, prompt_lookup_num_tokens=draft_length, max_matching_ngram_size=match
        )

    def _in_parts(self, prompts: Texts, size: int, **options: Any) -> Texts:
        parts = [prompts[i : i + size] for i in range(0, len(prompts), size)]
        with _attention_of_transformers(self.target):
            return [text for part in parts for text in self._generate(part, options)]

    def _generate(self, prompts: Texts, options: dict[str, Any]) -> Texts:
        target: Any = self.target  # its own `generate` is typed as a tensor
        longest = max(map(len, prompts))
        padding = [longest - len(prompt) for prompt in prompts]
        padded = [[0] * n + prompt for n, prompt in zip(padding, prompts, strict=True)]
        mask = [[0] * n + [1] * (longest - n) for n in padding]
        out = target.generate(
            torch.tensor(padded, device=target.device),
            attention_mask=torch.tensor(mask, device=target.device),
            do_sample=False,
            max_new_tokens=self.limit,
            eos_token_id=self.stops or None,
            pad_token_id=self.stops[0] if self.stops else 0,
            **options,
        )
        return [self._until_stop(text) for text in out[:, longest:].tolist()]

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
    theirs = Transformers(pair, limit)

    def make_engine(own: Pair) -> Engine:
        return own.engine(slots=BATCH, length=longest + limit + max(lengths))

    engine = make_engine(pair)
    ours = tuple({"draft_length": n} for n in lengths)
    assisted = tuple({"draft_length": n} for n in lengths if n)
    found = [
        Contender("transformers, plain, batch 8", theirs.batched),
        Contender("engine, no draft", partial(with_engine, engine, limit)),
        Contender(f"engine, {pair.drafter_kind}", partial(with_engine, engine, limit), ours),
    ]
    if pair.drafter_kind == "draft-model":
        # 0.4 is transformers' default: a draft ends early where the model is not sure
        both = tuple({**setting, "confidence": c} for c in (0.0, 0.4) for setting in assisted)
        found.append(Contender("transformers, draft-model, batch 1", theirs.with_model, both))
    if pair.drafter_kind != "ngram":
        lookup = make_engine(replace(pair, draft=None, draft_name=PROMPT_LOOKUP))
        found.append(Contender("engine, ngram", partial(with_engine, lookup, limit), ours))
    found.append(Contender("transformers, ngram, batch 1", theirs.with_lookup, assisted))
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
        found: Contenders.
        prompts: Token ids.
        repeats: Counted repetitions.
        report: Callback told of each measurement.
        warm_all: Whether to warm up on all prompts, where first passes are dear, or on the first
            batch.
    """
    warm = prompts if warm_all else prompts[:BATCH]
    measured: list[dict[str, Any]] = []
    for contender in found:
        tried = []
        for setting in contender.settings:
            contender.generate(warm, **setting)
            rate, _ = _rate(contender, prompts, setting)
            tried.append((rate, setting))
            report(f"tuning: {contender.name}, {describe_setting(setting)}: {rate:.1f} tokens/s")
        _, best = max(tried, key=lambda t: t[0])
        shown = [{**setting, "tokens_per_s": rate} for rate, setting in tried]
        measured.append({"name": contender.name, "setting": best, "tried": shown, "rates": []})
    texts: list[Texts] = []
    for repetition in range(repeats):
        timed = [_rate(c, prompts, m["setting"]) for c, m in zip(found, measured, strict=True)]
        texts = [written for _, written in timed]
        for own, (rate, _) in zip(measured, timed, strict=True):
            own["rates"].append(rate)
        report(f"repetition {repetition + 1} of {repeats}")
    for own, written in zip(measured, texts, strict=True):
        own["tokens_per_s"] = statistics.median(own["rates"])
        own["least"], own["most"] = min(own["rates"]), max(own["rates"])
        own["tokens"] = sum(map(len, written))
        own["equal_texts"] = equal(written, texts[0])
    return measured


def _rate(contender: Contender, prompts: Texts, setting: Setting) -> tuple[float, Texts]:
    begin = time.perf_counter()
    texts = contender.generate(prompts, **setting)  # lists: the device has done all of it
    return sum(map(len, texts)) / (time.perf_counter() - begin), texts


def equal(texts: Texts, reference: Texts) -> int:
    """Number of texts that are the same."""
    return sum(own == other for own, other in zip(texts, reference, strict=True))


def ratios(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The engine over transformers: medians, and the least and the most within a repetition."""
    found = []
    for own, peer in product(measured, measured):
        if own["name"].startswith("engine") and peer["name"].startswith("transformers"):
            within = [a / b for a, b in zip(own["rates"], peer["rates"], strict=True)]
            ratio = own["tokens_per_s"] / peer["tokens_per_s"]
            names = {"engine": own["name"], "peer": peer["name"]}
            found.append({**names, "ratio": ratio, "least": min(within), "most": max(within)})
    return found


def describe_setting(setting: Setting) -> str:
    """A setting in a few words."""
    names = {"draft_length": "n", "confidence": "threshold"}
    return ", ".join(f"{names[key]} {value}" for key, value in setting.items()) or "as it is"
