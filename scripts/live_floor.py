"""A round of the live engine beside the time that reading its weights takes, for `bench_live`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from laps_env.live.engine.engine import Engine
from laps_env.live.engine.head import DraftHead
from laps_env.live.engine.loading import Pair

#: What is read to measure the bandwidth, by kind of device: on a GPU so much that a kernel's start
#: and end do not count.
READ_BYTES = {"cpu": 400_000_000, "cuda": 4_000_000_000}

Texts = list[list[int]]


def pass_bytes(model: PreTrainedModel | DraftHead | None, target: PreTrainedModel) -> int:
    """Bytes of weights that a pass reads, tied ones once; rows of an embedding count as nothing.

    Args:
        model: Target, or what drafts for it (a head also reads its part of the target's output
            weights).
        target: Target.
    """
    if model is None:
        return 0
    if isinstance(model, DraftHead):
        borrowed = model.config.frequent_tokens * model.config.width
        own = sum(parameter.numel() for parameter in model.parameters())
        return (own + borrowed) * target.dtype.itemsize
    embedding: Any = model.get_input_embeddings()
    output: Any = model.get_output_embeddings()
    looked_up = 0 if embedding.weight is output.weight else embedding.weight.nbytes
    return sum(p.nbytes for p in model.parameters()) - int(looked_up)


def bandwidth(device: torch.device, repeats: int = 20) -> dict[str, float]:
    """Bytes per second of the best of some reads (a sum) and copies (read and written)."""
    size = READ_BYTES[device.type]
    source = torch.ones(size // 4, device=device)
    place = torch.empty_like(source)
    return {
        "read": size / _shortest(source.sum, device, repeats),
        "copy": 2 * size / _shortest(lambda: place.copy_(source), device, repeats),
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
    """Bandwidth and weights, and rounds at batch 1 beside the time that reading these takes."""
    speed = bandwidth(pair.target.device)
    target, draft = (pass_bytes(m, pair.target) for m in (pair.target, pair.draft))
    found = []
    for n in lengths:
        round_times(engine, prompts, limit, n)  # warms up
        seconds = round_times(engine, prompts, limit, n)
        if not seconds:
            continue
        floor = (target + n * draft) / max(speed.values())
        median = statistics.median(seconds)
        found.append(
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
    weights = {"target_bytes": target, "draft_step_bytes": draft}
    return {"floor": {"bytes_per_s": speed, **weights}, "rounds": found}
