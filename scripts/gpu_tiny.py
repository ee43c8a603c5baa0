"""The same campaign for a dry run: on the CPU, by a model of a few thousand weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from gpu_steps import Step
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

#: Seconds that a step may take: on a small machine, beside others.
LIMIT_S = 180

#: Options by command in place of the real ones.
SMALL = {
    "scripts/gpu_probe.py": "",
    "calibrate": "--batches 1,2 --draft-lengths 0,2 --contexts 8,16 --repeats 1",
    "fidelity": "--num-requests 4 --max-new-tokens 8 --repetitions 2 --policies fcfs,laps_sd"
    " --scenario math-batch8-8b",
    "scripts/bench_live.py": "--num-prompts 2 --limit 4 --draft-lengths 0 1 --repeats 1",
}


def save_model(folder: Path) -> None:
    """A random tiny Llama, with a tokenizer of whole words."""
    words = [f"w{i}" for i in range(211)]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=words[0], eos_token=words[1]
    ).save_pretrained(folder)


def dry(step: Step, model: Path) -> Step:
    """A step on the CPU, by the model in a folder, as a checkpoint or as an architecture.

    Of an option that is given twice the last counts.
    """
    command = next((word for word in SMALL if word in step.words), None)
    if command is None:
        return replace(step, limit_s=LIMIT_S)
    name = str(model) if step.demo else f"random:{model}"
    own = ("--device", "cpu", "--target", name, "--draft", name, *SMALL[command].split())
    return replace(step, words=(*step.words, *own), limit_s=LIMIT_S)
