"""vLLM in this process with our scheduler: two tiny random models, no tokenizer, no network."""

from __future__ import annotations

import copy
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BATCH, DRAFT_LENGTH, VOCABULARY, LONGEST = 2, 3, 256, 256
#: Steps after which nobody may be left.
MOST_STEPS = 1500

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "NUMBA_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class Ask:
    """A request for so many tokens that comes before the step of that number."""

    tokens: int
    told: Mapping[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 12
    at_step: int = 0


@dataclass
class Played:
    """What came of some requests.

    Attributes:
        texts: Tokens of each request, as far as it got.
        metrics: vLLM's own count of each request's drafts; None where it did not finish.
        finished: Numbers of the requests in the order of their ends.
        batches: Number of requests in each step.
    """

    texts: list[list[int]]
    metrics: list[Any]
    finished: list[int]
    batches: list[int]


class TinyServer:
    """An engine whose scheduler can be given one policy after another, or be replaced.

    The clock is none of the machine: ten milliseconds pass at each look, so that what is chosen is
    the same everywhere. A process can have one engine: vLLM does not start where numba has been
    imported, which the scheduler does (tests import ours in their functions).

    Args:
        folder: Folder for the models.
        changes: Arguments of vLLM that are other than here.

    Attributes:
        batch: Ids of the requests in the last step.
    """

    def __init__(self, folder: Path, **changes: Any) -> None:
        os.environ.update(ENVIRONMENT)
        from vllm import LLM, SamplingParams

        target = _save_model(folder / "target", layers=3)
        _save_model(folder / "draft", layers=2, like=target)
        arguments = {
            "model": str(folder / "target"),
            "skip_tokenizer_init": True,
            "dtype": "float32",
            "enforce_eager": True,
            "block_size": 32,
            "enable_prefix_caching": True,  # a scheduler can do without, but not add it
            "max_model_len": LONGEST,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 256,
            "async_scheduling": False,
            "speculative_config": {
                "method": "draft_model",
                "model": str(folder / "draft"),
                "num_speculative_tokens": DRAFT_LENGTH,
            },
            "per_request_spec_decode_metrics": "detailed",
            "scheduler_cls": "laps_env.serving.vllm.PolicyScheduler",
            "additional_config": {"laps": {"policy": "fcfs", "batch_size": BATCH}},
        }
        self.engine = LLM(**{**arguments, **changes}).llm_engine
        self._core = self.engine.engine_core.engine_core
        self._sampling = SamplingParams
        self.batch: list[str] = []
        execute = self._core.model_executor.execute_model

        def watched(output: Any, *args: Any, **kwargs: Any) -> Any:
            self.batch = list(output.num_scheduled_tokens)
            return execute(output, *args, **kwargs)

        self._core.model_executor.execute_model = watched

    @property
    def scheduler(self) -> Any:
        """The scheduler in force."""
        return self._core.scheduler

    @property
    def counts(self) -> Mapping[str, float]:
        """What the scheduler counted since it was given its policy."""
        counts: Mapping[str, float] = self.scheduler.counters.values
        return counts

    def new_scheduler(
        self, kind: Any = None, *, blocks: int | None = None, laps: Any = None, **changes: Any
    ) -> Any:
        """Another scheduler for this engine.

        Args:
            kind: Class (by default that of the one in force).
            blocks: Blocks of the cache, one of which stays empty.
            laps: Our settings.
            changes: Parts of vLLM's configuration, each with its members that are other.
        """
        old = self.scheduler
        config, cache = copy.copy(old.vllm_config), copy.copy(old.kv_cache_config)
        for part, members in changes.items():
            setattr(config, part, copy.copy(getattr(config, part)))
            for name, value in members.items():
                setattr(getattr(config, part), name, value)
        config.additional_config = {"laps": laps}
        cache.num_blocks = blocks or cache.num_blocks
        return (kind or type(old))(
            vllm_config=config,
            kv_cache_config=cache,
            structured_output_manager=old.structured_output_manager,
            block_size=old.block_size,
            hash_block_size=old.hash_block_size,
            log_stats=old.log_stats,
        )

    @contextmanager
    def under(self, scheduler: Any) -> Iterator[None]:
        """Let another scheduler be in force for a while."""
        old = self._core.scheduler
        self._core.scheduler = scheduler
        try:
            yield
        finally:
            # the model runner is to forget these
            old.finished_req_ids |= scheduler.finished_req_ids
            self._core.scheduler = old

    def use(self, **laps: Any) -> None:
        """Start anew with these settings, at time 0 and with an empty cache."""
        from laps_env.serving.settings import Settings

        self.scheduler.reset_prefix_cache()
        self.scheduler.clock = itertools.count(0, 10**7).__next__
        self.scheduler.use(Settings.of({"batch_size": BATCH, **laps}))

    def play(
        self,
        asks: Sequence[Ask],
        before_step: Callable[[int], Iterable[int]] = lambda step: (),
    ) -> Played:
        """Serve requests to the last; ``before_step`` says which of them are aborted there."""
        try:
            return self._play(asks, before_step)
        finally:
            self.engine.abort_request([str(number) for number in range(len(asks))])

    def _play(self, asks: Sequence[Ask], before_step: Callable[[int], Iterable[int]]) -> Played:
        played = Played([[] for _ in asks], [None] * len(asks), [], [])
        to_come = sorted(range(len(asks)), key=lambda k: asks[k].at_step)
        for step in range(MOST_STEPS):
            while to_come and asks[to_come[0]].at_step <= step:
                self.add(to_come[0], asks[to_come.pop(0)])
            self.engine.abort_request([str(number) for number in before_step(step)])
            if not (to_come or self.engine.has_unfinished_requests()):
                return played
            for output in self.engine.step():
                number = int(output.request_id)
                played.texts[number] = list(output.outputs[0].token_ids)
                if output.finished:
                    played.finished.append(number)
                    played.metrics[number] = output.outputs[0].spec_decode_metrics
            played.batches.append(len(self.batch))
        raise AssertionError(f"expected {len(asks)} requests to end, got {played.finished}")

    def add(self, number: int, ask: Ask) -> None:
        """Send a request; its prompt follows from its number."""
        prompt = np.random.default_rng([3, number]).integers(2, VOCABULARY, ask.prompt_tokens)
        params = self._sampling(
            temperature=0, max_tokens=ask.tokens, ignore_eos=True, detokenize=False,
            extra_args=dict(ask.told),
        )  # fmt: skip
        self.engine.add_request(str(number), {"prompt_token_ids": prompt.tolist()}, params)


def number_of(request: Any) -> int:
    """Number of a request of the scheduler, whose name vLLM makes of ours."""
    return int(request.request_id.split("-")[0])


def lines_of(log: Path, kind: str) -> list[dict[str, Any]]:
    """A step log's lines about a "step" or a "request"."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [line[kind] for line in lines if kind in line]


def _save_model(folder: Path, *, layers: int, like: Any = None) -> Any:
    """Write a random Llama, with the layers of another where it has as many."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
        initializer_range=0.2, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if like is not None:
        model.load_state_dict(like.state_dict(), strict=False)
    model.save_pretrained(folder)
    return model
