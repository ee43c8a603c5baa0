"""Measure one thing of a device for the GPU campaign, and write it as JSON.

    python scripts/gpu_probe.py attention --out attention.json

probe: bandwidths, multiplications, launches. lossless: float32 texts through captured graphs.
attention: one layer's attention over slots, by a gather, in place, and as the engine does it.
captures: what a first pass of a shape costs, and passes and rounds against the time that reading
their weights takes. On a CPU all of it is small, and only shows that it runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from live_floor import bandwidth, floors, pass_bytes
from torch import Tensor

from laps_env.live.engine.engine import Engine, Generation
from laps_env.live.engine.kv_slots import SlotModel
from laps_env.live.engine.loading import load_pair
from laps_env.live.engine.slot_cache import grouped_attention
from laps_env.live.measure.machine import describe_device
from laps_env.utils.documents import write_document

#: Kernels of a chain whose launches are timed; calls of an attention in one graph.
CHAIN, CALLS = 1000, 20

#: Tokens that a slot of the measured attention holds, and width of its heads.
SLOT_LENGTH, WIDTH = 1280, 128

#: Batch, tokens, and positions of the first of them, of passes that are timed.
PASSES = [(1, 1, 200), (1, 1, 900), (1, 5, 200), (1, 512, 0), (8, 5, 200), (8, 5, 900)]
PASSES += [(32, 1, 200), (32, 5, 200), (32, 5, 900)]


class Bench:
    """A device with a clock, and the names of the models that are measured on it."""

    def __init__(self, device: str, target: str, draft: str) -> None:
        self.device = torch.device(device)
        self.target, self.draft = target, draft

    @property
    def on_gpu(self) -> bool:
        """Whether sizes are the real ones."""
        return self.device.type == "cuda"

    def now(self) -> float:
        """Seconds, when the device has done all that was asked of it."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds(self, work: Callable[[], Any]) -> float:
        """How long a piece of work takes once."""
        begin = self.now()
        work()
        return self.now() - begin

    def median(self, work: Callable[[], Any], repeats: int = 7) -> float:
        """Seconds of a piece of work, warm."""
        work()
        return statistics.median(self.seconds(work) for _ in range(repeats))

    def graph(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """The work as one launch; on a CPU the work itself."""
        if not self.on_gpu:
            return work
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            work()
        return captured.replay


def probe(bench: Bench) -> dict[str, Any]:
    """What the device can do at most."""
    size = 8192 if bench.on_gpu else 256
    a, b = (torch.randn(size, size, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    multiplied = bench.median(lambda: a @ b)
    torch.backends.cuda.matmul.allow_tf32 = False
    exact = a[:64].double() @ b.double()
    apart = (a[:64].float() @ b.float()).double() - exact
    one = torch.ones(1000, device=bench.device)

    def chain() -> Tensor:
        out = one
        for _ in range(CHAIN):
            out = out + 1.0
        return out

    return {
        "bytes_per_s": bandwidth(bench.device),
        "bfloat16_flops": 2 * size**3 / multiplied,
        "float32_error": float(apart.norm() / exact.norm()),  # with TF32 it would be 3e-4
        "launch_s": bench.median(chain) / CHAIN,
        "kernel_in_graph_s": bench.median(bench.graph(chain)) / CHAIN,
        "list_to_device_s": bench.median(lambda: torch.tensor([1, 2, 3], device=bench.device)),
        "host_bytes_per_s": copies(bench) if bench.on_gpu else {},
    }


def copies(bench: Bench) -> dict[str, float]:
    """Bytes per second between host and device, by kind of host memory."""
    here = torch.empty(256_000_000, dtype=torch.uint8, device=bench.device)
    host = torch.empty(here.shape, dtype=here.dtype)
    found = {}
    for name, there in (("pageable", host), ("pinned", host.pin_memory())):
        found[f"{name} to host"] = here.nbytes / bench.median(partial(there.copy_, here))
        found[f"{name} to device"] = here.nbytes / bench.median(partial(here.copy_, there))
    return found


def lossless(bench: Bench) -> dict[str, Any]:
    """Texts of random weights in float32 against transformers' own.

    The draft is the first half of the target's layers, which sometimes agrees.
    """
    pair = load_pair(bench.target, bench.target, device=str(bench.device), dtype="float32")
    target: Any = pair.target
    draft: Any = pair.draft  # random weights are the same each time
    draft.model.layers = draft.model.layers[: len(draft.model.layers) // 2]
    draft.config.num_hidden_layers = len(draft.model.layers)
    rng = np.random.default_rng(0)
    limit = 48 if bench.on_gpu else 16
    vocabulary = target.config.vocab_size
    prompts = [rng.integers(vocabulary, size=n).tolist() for n in rng.integers(5, 200, size=8)]
    engine = pair.engine(slots=len(prompts), length=320)
    texts, accepted = serve(engine, prompts, limit, rng)
    same = 0
    for generation in texts:
        prompt = torch.tensor([generation.prompt], device=bench.device)
        told = target.generate(prompt, max_new_tokens=limit, do_sample=False)
        same += generation.output == told[0, prompt.shape[1] :].tolist()
    return {
        "texts": len(texts),
        "same": same,
        "accepted": accepted,
        "captures": engine.target.captures + engine.drafter.captures,
    }


def serve(
    engine: Engine, prompts: list[list[int]], limit: int, rng: np.random.Generator
) -> tuple[list[Generation], int]:
    """Random batches and draft lengths, with offloads and drops; the texts, and what was accepted.

    Args:
        engine: Engine with a slot for each prompt.
        prompts: Token ids.
        limit: Tokens of each text.
        rng: Generator of the order.
    """
    texts = [engine.start(prompt, limit) for prompt in prompts]
    accepted = 0
    while waiting := [text for text in texts if not text.finished]:
        chosen = [waiting[i] for i in rng.permutation(len(waiting))[: rng.integers(1, 5)]]
        for text in waiting:
            if text not in chosen and rng.random() < 0.2:
                leave = engine.offload if rng.random() < 0.5 else engine.drop
                leave(text)
        accepted += sum(r.accepted for r in engine.run_round(chosen, int(rng.integers(6))))
    return texts, accepted


def attention(bench: Bench) -> dict[str, Any]:
    """One layer's attention over slots: seconds of a call inside a graph, by the way it is done."""
    torch.backends.cuda.enable_cudnn_sdp(False)
    shapes = [(1, 1, 1024), (1, 8, 1024), (8, 8, 1024), (32, 8, 1024), (1, 512, 512)]
    found = []
    for shared in (32, 8):
        for batch, tokens, visible in shapes if bench.on_gpu else shapes[:2]:
            ways = dict(attentions(bench, shared, batch, tokens, visible))
            times = {name: time_calls(bench, way) for name, way in ways.items()}
            expected = ways["gathered"]()
            apart = {n: float((way() - expected).abs().max()) for n, way in ways.items()}
            about = {"shared": shared, "batch": batch, "tokens": tokens, "visible": visible}
            found.append({**about, "seconds": times, "difference": apart})
    return {"heads": 32, "width": WIDTH, "calls": found}


def time_calls(bench: Bench, way: Callable[[], Tensor]) -> float:
    """Seconds of one call, of many in a graph."""
    way()  # libraries allocate on their first call, which a graph cannot hold

    def many() -> None:
        for _ in range(CALLS):
            way()

    return bench.median(bench.graph(many)) / CALLS


def attentions(
    bench: Bench, shared: int, batch: int, tokens: int, visible: int
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Ways to the same output [batch, tokens, 32 heads, width], each by its name.

    Args:
        bench: Device.
        shared: Key-value heads.
        batch: Sequences.
        tokens: Tokens that each feeds, its last ones.
        visible: Tokens of each slot that are read.
    """
    make: dict[str, Any] = {"device": bench.device, "dtype": torch.bfloat16}
    # a slot's tokens lie one behind the other, so that all slots are one long sequence
    key, value = (torch.randn(batch + 1, SLOT_LENGTH, shared, WIDTH, **make) for _ in range(2))
    query = torch.randn(batch, tokens, 32, WIDTH, **make)
    slots = torch.arange(batch, device=bench.device)
    positions = torch.arange(visible - tokens, visible, device=bench.device)
    mask = (torch.arange(visible, device=bench.device) <= positions[:, None]).expand(
        batch, 1, tokens, visible
    )
    by_head = key.transpose(1, 2).contiguous(), value.transpose(1, 2).contiguous()

    def gathered() -> Tensor:
        keys, values = (part[slots, :, :visible] for part in by_head)
        return grouped_attention(torch.nn.Module(), query.transpose(1, 2), keys, values, mask)[0]

    yield "gathered", gathered
    if not bench.on_gpu:
        return
    from laps_env.live.engine import kernels  # imports Triton

    whole: dict[str, Any] = {"device": bench.device, "dtype": torch.int32}
    ends = torch.arange(0, batch * tokens + 1, tokens, **whole)
    begins = torch.arange(0, (batch + 1) * SLOT_LENGTH, SLOT_LENGTH, **whole)
    used = torch.full((batch,), visible, **whole)
    flat = [part.view(-1, shared, WIDTH) for part in (key, value)]
    longest = (tokens, SLOT_LENGTH)

    def in_place() -> Tensor:
        run: Any = torch.ops.aten._flash_attention_forward
        queries = query.view(-1, 32, WIDTH)
        out = run(queries, *flat, ends, begins, *longest, 0.0, True, False, seqused_k=used)
        return out[0].view(batch, tokens, 32, WIDTH)

    yield "in place", in_place
    if tokens * 32 // shared > kernels.MOST_QUERIES:
        return
    starts = torch.full((batch,), visible - tokens, device=bench.device)
    scale = WIDTH**-0.5
    yield "in parts", lambda: kernels.attend(query, key, value, starts, slots, scale)


def captures(bench: Bench) -> dict[str, Any]:
    """First and later passes of some shapes, on target and draft."""
    pair = load_pair(bench.target, bench.draft, device=str(bench.device))
    speed = max(bandwidth(bench.device).values())
    draft: Any = pair.draft
    found = []
    for role, model in (("target", pair.target), ("draft", draft)):
        slots = SlotModel(model, 32, 1100)
        floor = pass_bytes(model, pair.target) / speed
        for batch, tokens, start in PASSES if bench.on_gpu else PASSES[:3]:
            given = list(range(batch)), [[1] * tokens] * batch, [start] * batch
            free = free_bytes(bench)
            first = bench.seconds(partial(slots.forward, *given))
            taken = free - free_bytes(bench)
            later = bench.median(partial(slots.forward, *given))
            about = {"role": role, "batch": batch, "tokens": tokens, "start": start}
            times = {"first_s": first, "pass_s": later, "floor_s": floor}
            found.append({**about, **times, "taken_bytes": taken})
        del slots
    engine = pair.engine(slots=1, length=320)
    rounds = floors(pair, engine, [[1] * 64] * 2, 32, [0, 2, 4])["rounds"]
    return {"passes": found, "rounds": rounds}


def free_bytes(bench: Bench) -> int:
    """Bytes of the device that nobody holds; none on a CPU."""
    return torch.cuda.mem_get_info(bench.device)[0] if bench.on_gpu else 0


#: What is measured, and the models for it where it needs any.
EXPERIMENTS: dict[str, tuple[Callable[[Bench], dict[str, Any]], str, str]] = {
    "probe": (probe, "", ""),
    "lossless": (lossless, "random:llama-3.2-1b", ""),
    "attention": (attention, "", ""),
    "captures": (captures, "random:llama-2-7b", "random:llama-68m"),
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--target", help="models, by default the experiment's own")
    parser.add_argument("--draft")
    options = parser.parse_args()
    experiment, target, draft = EXPERIMENTS[options.experiment]
    bench = Bench(options.device, options.target or target, options.draft or draft)
    found = {**describe_device(bench.device), "found": experiment(bench)}
    print(found["found"])
    write_document(options.out, f"laps-env gpu {options.experiment}", 1, found)


if __name__ == "__main__":
    main()
