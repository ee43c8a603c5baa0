"""What goes into a ragged pass of a model, and what comes of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Pass(NamedTuple):
    """What one ragged pass gives; rows of shorter sequences end in padding.

    Attributes:
        logits: Scores [batch, kept tokens, vocabulary].
        choices: Likeliest tokens [batch, kept tokens], -1 where the logits are not finite.
        hidden: States that the head reads, after each token fed, [batch, tokens, width].
    """

    logits: Tensor
    choices: Tensor
    hidden: Tensor


def split(packed: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [batch, tokens], positions of the first of them [batch], and slots [batch].

    Args:
        packed: The three, one behind the other, [batch * (tokens + 2)].
        batch: Number of sequences.
    """
    return packed[: -2 * batch].view(batch, -1), packed[-2 * batch : -batch], packed[-batch:]


def positions_of(tokens: Tensor, starts: Tensor, cells: int) -> Tensor:
    """Positions [batch, tokens]; padding past the last of a slot's cells is put on that one."""
    steps = torch.arange(tokens.shape[1], device=tokens.device)
    return (starts[:, None] + steps).clamp(max=cells - 1)


def choices_of(logits: Tensor) -> Tensor:
    """The likeliest tokens, as `Pass.choices`."""
    largest, choices = logits.max(-1)
    return choices.where(largest.isfinite(), -1)
