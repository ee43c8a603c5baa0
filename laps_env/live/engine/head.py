"""A draft head: one layer that reads the target's last hidden state and the next token.

Source: Li et al., "EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty" (arXiv
2401.15077), as a chain, not a tree. At position j the head sees the target's state h[j] and the
token x[j + 1] that was chosen from it, and foretells h[j + 1], from which the target's own output
weights give the next token. Further tokens of a draft are had from the head's own states instead.
The head borrows the target's embedding and output weights, the latter cut to frequent tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of a draft head.

    Attributes:
        width: Width of the target's hidden state.
        heads, inner: Number of attention heads, width inside the feed-forward block.
        rope_theta: Base of the rotary position embedding.
        frequent_tokens: Number of tokens of the target's vocabulary that can be drafted.
    """

    width: int
    heads: int
    inner: int
    rope_theta: float
    frequent_tokens: int


class DraftHead(nn.Module):
    """The layer itself, with weights in float32."""

    frequent: Tensor  # [frequent tokens] their ids in the target's vocabulary

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.token_norm = nn.RMSNorm(width, eps=1e-5)
        self.state_norm = nn.RMSNorm(width, eps=1e-5)
        self.fuse = nn.Linear(2 * width, width, bias=False)
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.inner_norm = nn.RMSNorm(width, eps=1e-5)
        self.up = nn.Linear(width, 2 * config.inner, bias=False)
        self.down = nn.Linear(config.inner, width, bias=False)
        self.last_norm = nn.RMSNorm(width, eps=1e-5)
        self.register_buffer("frequent", torch.arange(config.frequent_tokens))

    def forward(
        self, tokens: Tensor, states: Tensor, positions: Tensor, mask: Tensor, cache: Any
    ) -> Tensor:
        """Foretell the target's next states.

        Args:
            tokens: Embeddings [batch, tokens, width] of x[j + 1].
            states: States [batch, tokens, width], h[j] or the head's own.
            positions: Positions [batch, tokens], j.
            mask: Mask, bool, True where a query sees a key, to [batch, heads, tokens, keys].
            cache: Function that takes the keys and values of these tokens, [batch, heads, tokens,
                head width] each, and returns all that the mask covers.

        Returns:
            [batch, tokens, width].
        """
        x = self.fuse(torch.cat([self.token_norm(tokens), self.state_norm(states)], -1))
        batch, count, width = x.shape
        q, k, v = (
            part.view(batch, count, self.config.heads, -1).transpose(1, 2)
            for part in self.project(self.attention_norm(x)).chunk(3, -1)
        )
        turn = self._turn(positions, q)
        keys, values = cache(_rotate(k, turn), v)
        seen = scaled_dot_product_attention(_rotate(q, turn), keys, values, mask)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, count, width))
        gate, inner = self.up(self.inner_norm(x)).chunk(2, -1)
        x = x + self.down(silu(gate) * inner)
        return self.last_norm(x)

    def _turn(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the rotary embedding, [batch, 1, tokens, head width]."""
        size = like.shape[-1]
        powers = torch.arange(0, size, 2, dtype=torch.float32, device=like.device) / size
        angles = positions[:, None, :, None] * self.config.rope_theta**-powers
        angles = torch.cat([angles, angles], -1)
        # angles in bfloat16 would be off by whole turns
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * turn[0] + torch.cat([-second, first], -1) * turn[1]
