"""A vLLM engine in this process, its clock, and how requests are played to it.

Runs in vLLM's environment (docs/vllm.md). By the virtual clock a step takes what a cost model says:
the engine and its tokens are real, the machine's noise is left out.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: Read when vLLM, torch and numba are imported, which must not have happened before.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "NUMBA_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}

SPECULATION: dict[str, dict[str, Any]] = {
    "ngram": {
        "method": "ngram", "num_speculative_tokens": 4,
        "prompt_lookup_max": 3, "prompt_lookup_min": 1,
    },
    "draft_model": {
        "method": "draft_model", "model": "models/smollm2-135m-first-24",
        "num_speculative_tokens": 3,
    },
    "head": {"method": "eagle", "model": "models/smollm2-135m-head", "num_speculative_tokens": 3},
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One request: what it asks, how long it is, and when it comes."""

    prompt: list[int]
    tokens: int
    predicted: float
    category: str
    arrival_s: float


class Clock:
    """Time in nanoseconds: the machine's, or one that is advanced by hand."""

    def __init__(self, virtual: bool) -> None:
        self.virtual = virtual
        self.now = 0
        self.start()

    def start(self) -> None:
        """The time is 0 now."""
        self.now, self.begun = 0, time.monotonic_ns()

    def __call__(self) -> int:
        return self.now if self.virtual else time.monotonic_ns() - self.begun

    def wait_until(self, then: int) -> None:
        """Let the time pass in which nothing is to be done."""
        if self.virtual:
            self.now = max(self.now, then)
        else:
            time.sleep(max(then - self(), 0) * 1e-9)


class Server:
    """A vLLM engine in this process whose scheduler can be given another policy.

    Args:
        target: Folder of the target model.
        drafter: Speculation, of `SPECULATION`.
        batch_size: Most requests in a step.
        places: Most requests that hold a cache.
        virtual: Whether time is what `cost` says of the steps.

    Attributes:
        cost: Cost model of the virtual clock.
    """

    def __init__(
        self, target: Path, drafter: str, batch_size: int, places: int, *, virtual: bool
    ) -> None:
        from vllm import LLM, SamplingParams

        from laps_env.serving import vllm_head

        vllm_head.register()
        self.sampling = SamplingParams
        self.batch_size = batch_size
        self.llm = LLM(
            model=str(target),
            dtype="float32",
            enforce_eager=True,
            max_model_len=1024,
            max_num_seqs=places,
            max_num_batched_tokens=4096,  # a prompt is never cut in chunks
            enable_prefix_caching=False,  # the replay has none
            async_scheduling=False,
            seed=0,
            speculative_config=SPECULATION[drafter],
            scheduler_cls="laps_env.serving.vllm.PolicyScheduler",
            additional_config={"laps": {"policy": "fcfs", "batch_size": batch_size}},
        )
        self.engine = self.llm.llm_engine
        self.scheduler = self.engine.engine_core.engine_core.scheduler
        self.clock = self.scheduler.clock = Clock(virtual)
        self.cost: Any = None

    def encode(self, question: Any) -> list[int]:
        """Tokens of a question's first turn."""
        from laps_env.live.prompts import encode

        return encode(self.llm.get_tokenizer(), question.turns[:1])

    def play(
        self, policy: str, requests: list[Request], traffic: Path | None, record: Path
    ) -> dict[str, Any]:
        """Serve requests to the last; what happened, times in seconds."""
        from laps_env.serving.settings import Settings

        laps = {"policy": policy, "batch_size": self.batch_size, "record": str(record)}
        if traffic is not None:
            laps["traffic"] = str(traffic)
        self.clock.start()
        self.scheduler.use(Settings.of(laps))
        self.clock.start()
        begun = time.perf_counter()
        events: list[list[float]] = [[] for _ in requests]
        texts: list[list[int]] = [[] for _ in requests]
        sent, left = 0, len(requests)
        while left:
            now = self.clock()
            while sent < len(requests) and requests[sent].arrival_s * 1e9 <= now:
                self._send(sent, requests[sent])
                sent += 1
            if not self.engine.has_unfinished_requests():
                self.clock.wait_until(int(requests[sent].arrival_s * 1e9) + 1)
                continue
            for output in self._step():
                k = int(output.request_id)
                if len(output.outputs[0].token_ids) > len(texts[k]):
                    events[k].append(self.clock() * 1e-9)
                    texts[k] = list(output.outputs[0].token_ids)
                left -= output.finished
        counts = self.scheduler.counters.values
        gaps = [max(np.diff(times), default=0.0) for times in events]
        return {
            "latency": _rounded(
                [e[-1] - r.arrival_s for e, r in zip(events, requests, strict=True)]
            ),
            "first_token": _rounded(
                [e[0] - r.arrival_s for e, r in zip(events, requests, strict=True)]
            ),
            "longest_stall": _rounded(gaps),
            "texts": hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16],
            "complete": all(len(t) == r.tokens for t, r in zip(texts, requests, strict=True)),
            "makespan": max(e[-1] for e in events),
            "wall": time.perf_counter() - begun,
            "decision_us": counts["decision_seconds"] / counts["steps"] * 1e6,
            **{name: counts[name] for name in ("steps", "held", "evicted", "failures")},
        }

    def _send(self, number: int, request: Request) -> None:
        told = {"predicted_tokens": request.predicted, "category": request.category}
        params = self.sampling(
            temperature=0, max_tokens=request.tokens, ignore_eos=True, detokenize=False,
            extra_args=told,
        )  # fmt: skip
        self.engine.add_request(str(number), {"prompt_token_ids": request.prompt}, params)

    def _step(self) -> Any:
        """A step of the engine; a virtual clock advances before its tokens are given out."""
        if not self.clock.virtual:
            return self.engine.step()
        update = self.scheduler.update_from_output

        def advanced(output: Any, result: Any) -> Any:
            self.clock.now += round(self._cost(output))
            return update(output, result)

        self.scheduler.update_from_output = advanced
        try:
            return self.engine.step()
        finally:
            del self.scheduler.update_from_output

    def _cost(self, output: Any) -> float:
        """What a step costs, by its work as `laps-env calibrate --from-log` counts it."""
        from laps_env.live.measure.logged_steps import work_of
        from laps_env.sim.costs import work_ns
        from laps_env.traces.step_log import EngineStep, StepShare

        known, drafts = self.scheduler.requests, output.scheduled_spec_decode_tokens
        shares = [
            StepShare(r, known[r].num_computed_tokens - count, count, len(drafts.get(r, ())), 1)
            for r, count in output.num_scheduled_tokens.items()
        ]
        return float(work_ns.py_func(self.cost, work_of(EngineStep(0, 0, shares))))


def _rounded(seconds: list[float]) -> list[float]:
    return [round(float(s), 4) for s in seconds]
