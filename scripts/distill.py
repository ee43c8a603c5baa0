"""Distil a draft head from texts of the target (`scripts/make_texts.py`).

The head learns to foretell the target's next state, and in outputs its next token, first from the
target's own states, then, unrolled, from its own, as it has to when it drafts (as in HASS, arXiv
2408.15766, and EAGLE-3, arXiv 2503.01840). Questions of the texts are of the *distill* part alone;
some texts are held out to choose nothing but to show how the training goes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding, linear, pad, smooth_l1_loss
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from laps_env.live.engine.head import DraftHead, HeadConfig
from laps_env.live.engine.head_file import save_head


@dataclass(frozen=True)
class Recipe:
    """How a head is trained."""

    frequent_tokens: int = 8192
    inner: int = 1536
    passes: int = 2  # the first on the target's states, the others on the head's own
    epochs: float = 3.0
    batch_tokens: int = 4096
    longest: int = 512  # tokens of a text that are used
    learning_rate: float = 1e-3
    warm_up: float = 0.03  # share of the steps
    state_weight: float = 0.5  # of the error of the foretold state
    held_out: int = 64  # texts
    seed: int = 0


@dataclass(frozen=True)
class Text:
    """A text with the target's states after each token but the last."""

    tokens: Tensor
    hidden: Tensor
    prompt: int


def read_texts(folder: Path, longest: int) -> list[Text]:
    """The texts of all shards."""
    texts = []
    for shard in sorted(folder.glob("*.safetensors")):
        data = load_file(shard)
        starts = torch.cat([torch.zeros(1, dtype=torch.long), data["length"].cumsum(0)]).tolist()
        for i, prompt in enumerate(data["prompt"].tolist()):
            first, last = starts[i], min(starts[i + 1], starts[i] + longest)
            # the state after a text's last token is not recorded
            last_state = min(last, starts[i + 1] - 1)
            if last - first > prompt + 4:
                tokens, hidden = data["tokens"][first:last].long(), data["hidden"][first:last_state]
                texts.append(Text(tokens, hidden, prompt))
    return texts


def frequent_tokens(texts: list[Text], vocabulary: int, count: int) -> Tensor:
    """The ids that come up most often in outputs (then in prompts), in increasing order."""
    counts = torch.zeros(vocabulary)
    for text in texts:
        counts += torch.bincount(text.tokens[text.prompt :], minlength=vocabulary)
        counts += 0.1 * torch.bincount(text.tokens[: text.prompt], minlength=vocabulary)
    return counts.topk(count).indices.sort().values


def batches(texts: list[Text], budget: int, rng: torch.Generator) -> Iterator[list[Text]]:
    """All texts once, at random, those of similar length together."""
    order = torch.randperm(len(texts), generator=rng).tolist()
    groups: list[list[Text]] = []
    for first in range(0, len(order), 512):
        block = sorted((texts[i] for i in order[first : first + 512]), key=lambda t: len(t.tokens))
        group: list[Text] = []
        for text in block:
            if group and (len(group) + 1) * len(text.tokens) > budget:
                groups.append(group)
                group = []
            group.append(text)
        groups.append(group)
    for i in torch.randperm(len(groups), generator=rng).tolist():
        yield groups[i]


class Distiller:
    """The head, and the parts of the target that it is measured against."""

    def __init__(self, head: DraftHead, weights: Tensor, output: Tensor, recipe: Recipe) -> None:
        self.head = head
        self.embedding = weights
        self.output = output[head.frequent].contiguous()
        self.recipe = recipe

    def losses(self, group: list[Text]) -> tuple[Tensor, list[float]]:
        """The loss of a batch, and per pass how often the head's likeliest token is the target's.

        At position p the head reads token x[p + 1] and a state for p, and foretells h[p + 1].
        """
        longest = max(len(t.hidden) for t in group)
        hidden = torch.stack([pad(t.hidden, (0, 0, 0, longest - len(t.hidden))) for t in group])
        tokens = torch.stack([pad(t.tokens[1:], (0, longest + 2 - len(t.tokens))) for t in group])
        count = longest - 1
        embedded = embedding(tokens[:, :count], self.embedding)
        goal = hidden[:, 1:]
        places = torch.arange(count)
        valid = places < torch.tensor([len(t.hidden) - 1 for t in group])[:, None]
        # what is foretold at p is the choice of token p + 2
        answered = valid & (places + 2 >= torch.tensor([t.prompt for t in group])[:, None])
        with torch.no_grad():
            teacher = linear(goal[answered], self.output)
            likeliest, chances = teacher.argmax(-1), teacher.softmax(-1)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        state, total, hits = hidden[:, :count], torch.zeros(()), []
        for number in range(self.recipe.passes):

            def cache(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
                keys.append(k)
                values.append(v)
                return torch.cat(keys, 2), torch.cat(values, 2)

            mask = torch.cat(self._masks(places, number), -1)
            positions = places.expand(len(group), -1)
            ahead = self.head(embedded, state, positions, mask, cache)
            logits = linear(ahead[answered], self.output)
            total = total + cross_entropy(logits, chances)
            error = smooth_l1_loss(ahead[valid].float(), goal[valid].float())
            total = total + self.recipe.state_weight * error
            hits.append(float((logits.argmax(-1) == likeliest).float().mean()))
            state = pad(ahead[:, :-1], (0, 0, 1, 0))
        return total / self.recipe.passes, hits

    @staticmethod
    def _masks(places: Tensor, number: int) -> list[Tensor]:
        """What a query of pass ``number`` sees of each pass: the text before its chain began, and
        of every later pass the one step that its own chain took there."""
        query, key = places[:, None], places[None, :]
        begun = [key <= query - number] if number else [key <= query]
        # a position with no text before it looks at itself, so that no row is empty
        begun[0] = begun[0] | (query < number) & (key == 0)
        return begun + [key == query - (number - t) for t in range(1, number + 1)]


@torch.no_grad()
def start_as_identity(head: DraftHead) -> None:
    """Before it has learned anything, the head foretells the state that it is given."""
    width = head.config.width
    head.fuse.weight.normal_(std=0.02)
    head.fuse.weight[:, width:] += torch.eye(width)
    for last in (head.out, head.down):
        last.weight.zero_()


def train(distiller: Distiller, texts: list[Text], recipe: Recipe) -> dict[str, float]:
    """Adam with warm-up and cosine; returns what the held-out texts show at the end."""
    rng = torch.Generator().manual_seed(recipe.seed)
    order = torch.randperm(len(texts), generator=rng).tolist()
    held_out = [texts[i] for i in order[: recipe.held_out]]
    training = [texts[i] for i in order[recipe.held_out :]]
    per_epoch = len(list(batches(training, recipe.batch_tokens, torch.Generator().manual_seed(0))))
    steps = round(per_epoch * recipe.epochs)
    matrices = [p for p in distiller.head.parameters() if p.ndim > 1]
    vectors = [p for p in distiller.head.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
    )
    warm = max(round(recipe.warm_up * steps), 1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warm, 0.02 + 0.98 * (1 + math.cos(math.pi * s / steps)) / 2),
    )
    step = 0
    with tqdm(total=steps, unit="step") as bar:
        while step < steps:
            for group in batches(training, recipe.batch_tokens, rng):
                with torch.autocast("cpu", torch.bfloat16):
                    loss, hits = distiller.losses(group)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(distiller.head.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                step += 1
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.3f}", hits=" ".join(f"{h:.3f}" for h in hits))
                if step % 200 == 0 or step == steps:
                    shown = check(distiller, held_out)
                    tqdm.write(f"{step}: held out {shown}")
                if step == steps:
                    break
    return shown


@torch.no_grad()
def check(distiller: Distiller, texts: list[Text]) -> dict[str, float]:
    """Share of the positions whose next token is foretold, pass by pass."""
    sums = torch.zeros(distiller.recipe.passes)
    for text in texts:
        with torch.autocast("cpu", torch.bfloat16):
            sums += torch.tensor(distiller.losses([text])[1])
    return {f"pass {k + 1}": round(float(s) / len(texts), 4) for k, s in enumerate(sums)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Distil a draft head from texts of the target.")
    parser.add_argument("--target", required=True, help="folder or hub name of the target")
    parser.add_argument("--texts", type=Path, required=True, help="folder of make_texts.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the head")
    parser.add_argument("--epochs", type=float, default=Recipe.epochs)
    parser.add_argument("--prompts", default="", help="what the prompts were, for the card")
    options = parser.parse_args()
    recipe = Recipe(epochs=options.epochs)
    torch.manual_seed(recipe.seed)
    target = AutoModelForCausalLM.from_pretrained(options.target, dtype=torch.bfloat16)
    texts = read_texts(options.texts, recipe.longest)
    config = target.config
    head = DraftHead(
        HeadConfig(
            config.hidden_size,
            config.num_attention_heads,
            recipe.inner,
            float(config.rope_parameters["rope_theta"]),
            recipe.frequent_tokens,
        )
    )
    head.frequent = frequent_tokens(texts, config.vocab_size, recipe.frequent_tokens)
    start_as_identity(head)
    embedded: Any = target.get_input_embeddings()
    output: Any = target.get_output_embeddings()
    distiller = Distiller(head, embedded.weight.detach(), output.weight.detach(), recipe)
    shown = train(distiller, texts, recipe)
    outputs = sum(len(t.tokens) - t.prompt for t in texts)
    card = {
        "target": Path(options.target).name,
        "created": datetime.now(UTC).date().isoformat(),
        "texts": len(texts),
        "output_tokens": outputs,
        "all_tokens": sum(len(t.tokens) for t in texts),
        "prompts": options.prompts,
        "recipe": asdict(recipe),
        "held_out_texts_next_token_foretold": shown,
    }
    save_head(options.out, head, card)
    print(f"{options.out}: {card}")


if __name__ == "__main__":
    main()
