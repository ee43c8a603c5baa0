"""What goes into a ragged pass of a model, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor


class Fed(NamedTuple):
    """What sequences feed into a pass: slots, tokens, and the positions of their first tokens."""

    slots: Sequence[int]
    tokens: Sequence[Sequence[int]]
    starts: Sequence[int]

    def filled(self, batch: int, spare: int) -> Fed:
        """The same in a larger batch, of which the rest feeds one token into a spare slot."""
        more = batch - len(self.slots)
        return Fed(
            [*self.slots, *[spare] * more],
            [*self.tokens, *[[0]] * more],
            [*self.starts, *[0] * more],
        )

    def packed(self, longest: int) -> Tensor:
        """All of it in one piece for `split`; one copy to a device takes as long as three.

        Args:
            longest: Tokens that each sequence is padded to.
        """
        # a shorter one repeats its last token past its end, where nobody will look
        rows = [[*own, *[own[-1]] * (longest - len(own))] for own in self.tokens]
        return torch.tensor([*chain.from_iterable(rows), *self.starts, *self.slots])


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
