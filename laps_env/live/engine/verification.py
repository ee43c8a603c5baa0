"""How tokens are chosen, and how much of a draft the target accepts.

Sources: Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding"
(arXiv 2211.17192, algorithm 1); Chen et al., "Accelerating Large Language Model Decoding with
Speculative Sampling" (arXiv 2302.01318). Whatever the draft, the text is distributed as the
target says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen from logits.

    Attributes:
        temperature: Temperature; 0 takes the likeliest token, else logits are divided by it.
        top_p: Probability, in (0, 1], that the likeliest tokens must reach together; only these are
            drawn.

    Raises:
        ValueError: Value out of range; the message names the field, what was expected and what
            came.
    """

    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature: expected a number >= 0, got {self.temperature!r}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected a number in (0, 1], got {self.top_p!r}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    def probabilities(self, logits: Tensor) -> Tensor:
        """The sampling distribution [..., vocabulary], float32 on the host (not for greedy)."""
        chances = (logits.float().cpu() / self.temperature).softmax(-1)
        if self.top_p < 1:
            ordered, order = chances.sort(-1, descending=True)
            beyond = ordered.cumsum(-1) - ordered >= self.top_p
            chances = chances.scatter(-1, order, ordered.masked_fill(beyond, 0.0))
            chances = chances / chances.sum(-1, keepdim=True)
        return chances


@dataclass(frozen=True)
class Draft:
    """Tokens proposed for one sequence.

    Attributes:
        tokens: Drafted tokens [d].
        probabilities: Distributions [d, vocabulary] they were drawn from; None where the drafter
            was certain of each.
    """

    tokens: list[int]
    probabilities: Tensor | None = None


def draw(weights: Tensor, rng: torch.Generator) -> int:
    """A token with probability proportional to its weight [vocabulary]."""
    return int(torch.multinomial(weights, 1, generator=rng))


def verify(
    draft: Draft, logits: Tensor, decoding: Decoding, rng: torch.Generator
) -> tuple[int, int]:
    """How many draft tokens are accepted, and the target's own token after them.

    Args:
        draft: Draft of d tokens.
        logits: Logits of the target [d + 1, vocabulary], after the last committed token and after
            each draft token.
        decoding: Choice of the target's tokens.
        rng: Generator of the sequence alone, so that no other sequence changes its text.

    Returns:
        Accepted draft tokens, 0..d, and the token that follows them.
    """
    if decoding.greedy:
        return longest_match(draft.tokens, logits.argmax(-1).tolist())
    target = decoding.probabilities(logits)
    for k, token in enumerate(draft.tokens):
        if draft.probabilities is None:
            proposed = torch.zeros_like(target[k])
            proposed[token] = 1.0
        else:
            proposed = draft.probabilities[k]
        if float(torch.rand((), generator=rng)) * proposed[token] >= target[k, token]:
            return k, draw((target[k] - proposed).clamp(min=0), rng)
    return len(draft.tokens), draw(target[-1], rng)


def longest_match(drafted: Sequence[int], choices: Sequence[int]) -> tuple[int, int]:
    """How many drafted tokens are the target's own choices, and its choice after them.

    Args:
        drafted: Drafted tokens [d].
        choices: Likeliest tokens of the target, d + 1 or more.
    """
    accepted = 0
    while accepted < len(drafted) and drafted[accepted] == choices[accepted]:
        accepted += 1
    return accepted, choices[accepted]
