"""How much of a sequence's drafts counts, and which token follows: the target's word, or a record.

With recorded acceptance every pass is real, but how many draft tokens count as accepted is read
from a recording: then a server can be timed whose models never learned anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from laps_env.live.engine.verification import Decoding, Draft, longest_match, verify


class Acceptance:
    """The judge of one sequence's drafts."""

    def fit(self, position: int, draft: Draft, count: int) -> Draft:
        """What is verified of a draft.

        Args:
            position: Output tokens so far.
            draft: Draft as it was proposed.
            count: Number of tokens that the round drafts.
        """
        return draft

    def accept(
        self, position: int, draft: Draft, choices: Sequence[int], logits: Tensor
    ) -> tuple[int, int]:
        """How many draft tokens are accepted, and the token that follows them.

        Args:
            position: Output tokens so far.
            draft: Draft of d tokens.
            choices: Likeliest tokens of the target after the last committed token and after each
                draft token, d + 1 or more.
            logits: Logits of the target at these places, [d + 1 or more, vocabulary].
        """
        raise NotImplementedError


class Greedy(Acceptance):
    """Draft tokens are accepted that are the target's likeliest."""

    def accept(
        self, position: int, draft: Draft, choices: Sequence[int], logits: Tensor
    ) -> tuple[int, int]:
        """Find the longest match."""
        return longest_match(draft.tokens, choices)


class Sampled(Acceptance):
    """Rejection sampling, after which the text is distributed as the target says.

    Args:
        decoding: Choice of the target's tokens.
        rng: Generator of the sequence alone.
    """

    def __init__(self, decoding: Decoding, rng: torch.Generator) -> None:
        self.decoding = decoding
        self.rng = rng

    def accept(
        self, position: int, draft: Draft, choices: Sequence[int], logits: Tensor
    ) -> tuple[int, int]:
        """Draw by the target's distributions (`verify`)."""
        return verify(draft, logits[: len(draft.tokens) + 1], self.decoding, self.rng)


class Recorded(Acceptance):
    """A recording says how many draft tokens are accepted, whatever the target says of them.

    Args:
        accepted_length: Draft tokens in a row that a round accepts that starts at each output
            position, [limit].
        max_draft: Most tokens that can be drafted there, [limit], or None for any.
    """

    def __init__(
        self, accepted_length: Sequence[int], max_draft: Sequence[int] | None = None
    ) -> None:
        self.accepted_length = accepted_length
        self.max_draft = max_draft

    def fit(self, position: int, draft: Draft, count: int) -> Draft:
        """Cut a draft to the recorded length, or fill it up with any token."""
        length = count if self.max_draft is None else min(count, self.max_draft[position])
        return Draft([*draft.tokens[:length], *[0] * (length - len(draft.tokens))])

    def accept(
        self, position: int, draft: Draft, choices: Sequence[int], logits: Tensor
    ) -> tuple[int, int]:
        """Look it up; the token that follows is the target's own."""
        accepted = min(self.accepted_length[position], len(draft.tokens))
        return accepted, choices[accepted]
