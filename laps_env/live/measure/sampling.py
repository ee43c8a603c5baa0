"""Acceptance of sampled texts: how likely the draft's token was to be accepted at every place.

A token x drawn from the draft's distribution q is accepted with probability min(1, p(x) / q(x))
(`laps_env.live.engine.verification.verify`), so at a place as a whole with the sum over tokens of
min(p, q), both after the true text before it. Of a draft's later tokens that is taken to hold as
of its first (assumed; exact for a draft model, whose q depends on the text alone, while a head
knows less of the text the deeper it drafts).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from laps_env.live.engine.drafters import Drafter, DraftModel, PromptLookup
from laps_env.live.engine.engine import RoundResult
from laps_env.live.engine.head_drafter import HeadDrafter
from laps_env.live.engine.verification import Decoding
from laps_env.traces.schema import MAX_RUN

#: Places whose distributions are held at once.
_PLACES = 256


def acceptance_of(
    drafter: Drafter,
    text: list[int],
    hidden: Tensor,
    target: Tensor,
    decoding: Decoding,
) -> list[float]:
    """Probability that a draft's first token is accepted at each place [n], 0..1.

    Args:
        drafter: Drafter, whose slot 0 is used.
        text: Prompt and the n tokens behind it.
        hidden: States of the target [tokens - 1, width] or more.
        target: Logits of the target at the last n places [n, vocabulary].
        decoding: Choice of tokens, not greedy.

    Returns:
        One for each place; 0 where the drafter has nothing to draft from.
    """
    first = len(text) - len(target)
    if isinstance(drafter, HeadDrafter):
        draft = drafter.first_logits(text, hidden, first)
    elif isinstance(drafter, DraftModel):
        draft = drafter.model.forward([0], [text[:-1]], [0]).logits[0][first - 1 :]
    else:
        return lookup_acceptance(text, target, decoding)
    unknown = len(target) - len(draft)
    return [0.0] * unknown + overlap(target[unknown:], draft, decoding)


def overlap(target: Tensor, draft: Tensor, decoding: Decoding) -> list[float]:
    """Sum over tokens of min(p, q) at each place [n], by logits [n, vocabulary] of both."""
    found: list[float] = []
    for own, drafted in zip(target.split(_PLACES), draft.split(_PLACES), strict=True):
        p, q = decoding.probabilities(own), decoding.probabilities(drafted)
        found += torch.minimum(p, q).sum(-1).clamp(max=1.0).tolist()
    return found


def lookup_acceptance(text: list[int], target: Tensor, decoding: Decoding) -> list[float]:
    """The same of prompt lookup, which is certain of its token x: p(x), 0 where it has none."""
    first, drafter, found = len(text) - len(target), PromptLookup(), list[float]()
    for part, logits in enumerate(target.split(_PLACES)):
        for k, p in enumerate(decoding.probabilities(logits), first + part * _PLACES):
            drafted = drafter.continuation(text[:k])[:1]
            found += p[drafted].tolist() or [0.0]
    return found


def drawn_lengths(
    acceptance: Sequence[float], rounds: Iterable[tuple[int, RoundResult]], rng: np.random.Generator
) -> list[int]:
    """Accepted lengths [n] of one draw, with the tokens that rounds have decided as they did.

    Args:
        acceptance: Probability at each place [n].
        rounds: First place and result of each round; no two decide the same place.
        rng: Generator of the draws.
    """
    accepted = rng.random(len(acceptance)) < acceptance
    for start, result in rounds:
        accepted[start : start + result.accepted] = True
        if result.accepted < result.drafted:
            accepted[start + result.accepted] = False
    lengths, run = [], 0
    for bit in accepted[::-1].tolist():
        run = min(run + 1, MAX_RUN) if bit else 0
        lengths.append(run)
    return lengths[::-1]
