"""vLLM in this process with our scheduler: two tiny random models, no tokenizer, no network."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BATCH, DRAFT_LENGTH, VOCABULARY = 2, 3, 256

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


@dataclass(frozen=True)
class Ask:
    """A request for so many tokens; it comes before the step of that number."""

    tokens: int
    told: Mapping[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 12
    at_step: int = 0


@dataclass
class Played:
    """What came of some requests: tokens of each as far as they got, and vLLM's own metrics."""

    texts: list[list[int]]
    metrics: list[Any]
    finished: list[int]
    batches: list[int]
    counts: Mapping[str, float]

    def position(self, number: int) -> int:
        """Which request in the order of their ends this one was."""
        return self.finished.index(number)


class TinyServer:
    """An engine and its scheduler, which can be given one policy after another.

    The clock is none of the machine: a millisecond passes at each look, so that what is chosen is
    the same everywhere.

    Args:
        folder: Folder for the models.
        changes: Arguments of vLLM that are other than here.
    """

    def __init__(self, folder: Path, **changes: Any) -> None:
        os.environ.update(ENVIRONMENT)
        from vllm import LLM, SamplingParams  # before numba, or else the engine crashes

        target = _save_model(folder / "target", layers=3)
        _save_model(folder / "draft", layers=2, like=target)
        arguments = {
            "model": str(folder / "target"),
            "skip_tokenizer_init": True,
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 256,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 256,
            "enable_prefix_caching": False,
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
        self.scheduler = self.engine.engine_core.engine_core.scheduler
        self._sampling = SamplingParams

    def use(self, **laps: Any) -> None:
        """Start anew with these settings, at time 0."""
        from laps_env.serving.settings import Settings

        self.scheduler.clock = itertools.count(0, 10**6).__next__
        self.scheduler.use(Settings.of({"batch_size": BATCH, **laps}))

    def play(
        self,
        asks: Sequence[Ask],
        before_step: Callable[[int], Iterable[int]] = lambda step: (),
        **laps: Any,
    ) -> Played:
        """Serve requests to the last; ``before_step`` says which of them are aborted there."""
        self.use(**laps)
        played = Played([[] for _ in asks], [None] * len(asks), [], [], {})
        to_come = sorted(range(len(asks)), key=lambda k: asks[k].at_step)
        for step in itertools.count():
            while to_come and asks[to_come[0]].at_step <= step:
                self._add(to_come[0], asks[to_come.pop(0)])
            self.engine.abort_request([str(k) for k in before_step(step)])
            if not (to_come or self.engine.has_unfinished_requests()):
                break
            for output in self.engine.step():
                number = int(output.request_id)
                played.texts[number] = list(output.outputs[0].token_ids)
                if output.finished:
                    played.finished.append(number)
                    played.metrics[number] = output.outputs[0].spec_decode_metrics
            played.batches.append(self.scheduler.served)
        played.counts = self.scheduler.counters.values
        return played

    def _add(self, number: int, ask: Ask) -> None:
        import numpy as np

        prompt = np.random.default_rng([3, number]).integers(2, VOCABULARY, ask.prompt_tokens)
        params = self._sampling(
            temperature=0, max_tokens=ask.tokens, ignore_eos=True, detokenize=False,
            extra_args=dict(ask.told),
        )  # fmt: skip
        self.engine.add_request(str(number), {"prompt_token_ids": prompt.tolist()}, params)


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
