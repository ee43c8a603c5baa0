"""Texts by the target itself, with its hidden states: what a draft is distilled on.

Prompts are the *distill* part of some prompt files, answered once greedily and more often at a
temperature (rare categories most often), and questions that the target makes up when it is shown
the start of a user's turn (as in "Magpie", arXiv 2406.08464), answered greedily. The order is
random, so a run that is stopped early has a smaller mixture, not another one. Finished texts are
written in shards (safetensors); the same command goes on behind the last one.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from laps_env.live.engine.kv_slots import SlotModel
from laps_env.live.prompts import encode, partition, read_questions
from laps_env.utils.files import write_beside

#: Texts of a category are made until there are about this many, from at most this many samples
#: of a question.
TEXTS_PER_CATEGORY = 240
MOST_SAMPLES = 12
MADE_UP_QUESTIONS = 4000
TEMPERATURE = 0.7
QUESTION_TEMPERATURE = 0.9
QUESTION_TOKENS = 160
ANSWER_TOKENS = 320
#: Longer prompts are served in a batch of their own: a pass costs what its longest text costs.
LONG_PROMPT = 280
LONG_TEXTS = 240
SHARD_TEXTS = 256


@dataclass(eq=False)
class Text:
    """A text on its way: what is fed next, what follows the question if the target makes it up."""

    tokens: list[int]
    temperature: float
    then: list[int] | None = None
    limit: int = ANSWER_TOKENS
    fed: int = 0
    prompt: int = 0
    hidden: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prompt = len(self.tokens)


def plan(files: list[str], tokenizer, seed: int) -> list[Text]:
    """All texts to make, in random order."""
    questions = partition(read_questions(files))["distill"]
    sizes = Counter(q.category for q in questions)
    texts = []
    for question in questions:
        prompt = encode(tokenizer, question.turns[:1])
        samples = min(MOST_SAMPLES, -(-TEXTS_PER_CATEGORY // sizes[question.category]))
        texts += [Text(list(prompt), 0.0 if k == 0 else TEMPERATURE) for k in range(samples)]
    opening, closing = around_question(tokenizer)
    texts += [
        Text(list(opening), QUESTION_TEMPERATURE, then=closing, limit=QUESTION_TOKENS)
        for _ in range(MADE_UP_QUESTIONS)
    ]
    random.Random(seed).shuffle(texts)
    return texts


def around_question(tokenizer) -> tuple[list[int], list[int]]:
    """What stands before a user's question and what follows its end-of-turn token."""
    mark = "QUESTION"
    message = [{"role": "user", "content": mark}]
    whole = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    before, after = whole.split(mark)
    encoded = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)]
    return encoded[0], encoded[1][1:]


def generate(
    model: SlotModel, texts: list[Text], batch: int, stop: int, rng: torch.Generator
) -> Iterator[Text]:
    """Make the texts, `batch` at a time, and give each when it is finished."""
    waiting = iter(texts)
    slots: list[Text | None] = [None] * batch
    while True:
        for slot in range(batch):
            if slots[slot] is None and (text := next(waiting, None)) is not None:
                out = model.forward([slot], [text.tokens[:-1]], [0], last_logits=True)
                text.hidden.append(out.hidden[0].clone())
                text.fed = len(text.tokens) - 1
                slots[slot] = text
        running = [text for text in slots if text is not None]
        if not running:
            return
        # an empty slot feeds anything: whole batches need no copy of the cache
        fed = [[stop] if text is None else [text.tokens[text.fed]] for text in slots]
        starts = [0 if text is None else text.fed for text in slots]
        out = model.forward(range(batch), fed, starts, last_logits=True)
        following = choose(out.logits[:, 0], slots, rng)
        for slot, text in enumerate(slots):
            if text is None:
                continue
            text.hidden.append(out.hidden[slot].clone())
            text.fed += 1
            if text.fed < len(text.tokens):
                continue
            text.tokens.append(following[slot])
            if text.then is not None and following[slot] == stop:
                text.tokens += text.then
                text.prompt = len(text.tokens)
                text.then, text.temperature, text.limit = None, 0.0, ANSWER_TOKENS
            elif following[slot] == stop or len(text.tokens) - text.prompt == text.limit:
                slots[slot] = None
                if text.then is None:  # a made-up question that does not end is thrown away
                    yield text


def choose(logits: Tensor, slots: list[Text | None], rng: torch.Generator) -> list[int]:
    """The next token of every slot [batch]."""
    chosen = logits.argmax(-1)
    heat = {slot: text.temperature for slot, text in enumerate(slots) if text is not None}
    warm = [slot for slot, temperature in heat.items() if temperature > 0]
    if warm:
        temperatures = torch.tensor([heat[slot] for slot in warm])[:, None]
        chances = (logits[warm].float() / temperatures).softmax(-1)
        chosen[warm] = torch.multinomial(chances, 1, generator=rng)[:, 0]
    return chosen.tolist()


def pack(texts: list[Text]) -> bytes:
    """A shard: all tokens, the state after each but a text's last, and where texts begin."""
    hidden = [torch.cat(text.hidden) for text in texts]
    return save(
        {
            "tokens": torch.tensor([t for text in texts for t in text.tokens], dtype=torch.int32),
            "hidden": torch.cat([torch.cat([h, h[-1:] * 0]) for h in hidden]).bfloat16(),
            "length": torch.tensor([len(text.tokens) for text in texts]),
            "prompt": torch.tensor([text.prompt for text in texts]),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--target", required=True, help="folder or hub name of the target")
    parser.add_argument("--prompts", nargs="+", required=True, help="prompt files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--minutes", type=float, default=60.0, help="time to spend")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    shards = len(list(options.out.glob("*.safetensors")))
    end = time.monotonic() + 60 * options.minutes
    tokenizer = AutoTokenizer.from_pretrained(options.target)
    target = AutoModelForCausalLM.from_pretrained(options.target, dtype=torch.bfloat16)
    texts = plan(options.prompts, tokenizer, options.seed + shards)
    rng = torch.Generator().manual_seed(options.seed + shards)
    groups = [
        ([t for t in texts if len(t.tokens) > LONG_PROMPT][:LONG_TEXTS], options.batch // 8),
        ([t for t in texts if len(t.tokens) <= LONG_PROMPT], options.batch),
    ]
    finished: list[Text] = []
    with tqdm(unit="token") as bar:
        for group, batch in groups if shards == 0 else groups[1:]:
            longest = max(len(t.tokens) for t in group) + ANSWER_TOKENS + QUESTION_TOKENS + 16
            model = SlotModel(target, batch, longest)
            for text in generate(model, group, batch, tokenizer.eos_token_id, rng):
                finished.append(text)
                bar.update(len(text.tokens) - text.prompt)
                if len(finished) == SHARD_TEXTS:
                    write_beside(options.out / f"{shards:04}.safetensors", [pack(finished)])
                    shards += 1
                    finished = []
                if time.monotonic() > end:
                    return


if __name__ == "__main__":
    main()
