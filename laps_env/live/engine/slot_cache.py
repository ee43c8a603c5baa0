"""A key-value cache with slots, and the attention that reads it.

The caches of transformers keep one length for a whole batch; here each sequence owns a *slot*, a
row of one buffer per layer, and is written and read at its own length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import CacheLayerMixin
from transformers.masking_utils import sdpa_mask


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention [batch, heads, tokens, width] without copying keys for grouped queries.

    The heads that share a key-value head are laid one behind the other as if they were tokens.
    """
    batch, heads, tokens, width = query.shape
    shared = key.shape[1]
    folded = query.reshape(batch, shared, -1, width)
    if attention_mask is None:
        attention_mask = torch.ones(tokens, key.shape[2], dtype=torch.bool, device=query.device)
        attention_mask = attention_mask.tril(key.shape[2] - tokens)[None, None]
    mask = attention_mask.repeat(1, 1, heads // shared, 1)
    out = scaled_dot_product_attention(folded, key, value, mask, scale=scaling)
    return out.reshape(batch, heads, tokens, width).transpose(1, 2), None


# An attention without a mask function of the same name would silently lose the causal mask.
AttentionInterface.register("grouped", grouped_attention)
AttentionMaskInterface.register("grouped", sdpa_mask)


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [count of slots, heads, length, width] each.

    `place` says where the coming pass writes and how far it reads.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, count: int, length: int) -> None:
        super().__init__()
        self.count = count
        self.length = length

    def place(
        self, slots: Tensor, positions: Tensor, visible: int, read: slice | None = None
    ) -> None:
        """Place the coming pass.

        Args:
            slots: Slot of each sequence, [batch].
            positions: Where their tokens are written, [batch, tokens].
            visible: Tokens of each slot that are read.
            read: The same slots where they are neighbours, which need no copy then.
        """
        self.slots, self.positions, self.visible = slots, positions, visible
        self.read: Tensor | slice = slots if read is None else read

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate at the first pass, when heads, width, type and device are known."""
        _, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(self.count, heads, self.length, width)
        self.values = value_states.new_zeros(self.count, heads, self.length, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [batch, heads, tokens, width]; return what is visible, with ``visible`` tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        heads = torch.arange(key_states.shape[1], device=key_states.device)[:, None]
        where = (self.slots[:, None, None], heads, self.positions[:, None])
        self.keys[where] = key_states
        self.values[where] = value_states
        return (
            self.keys[self.read, :, : self.visible],
            self.values[self.read, :, : self.visible],
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys under the mask, and the first of them."""
        return self.visible, 0

    def get_seq_length(self) -> int:
        """The batch has no one length: positions and mask are always given."""
        return 0

    def get_max_length(self) -> int:
        """Tokens that a slot holds."""
        return self.length


class KeysValues(Protocol):
    """Keys and values of a layer, [count of slots, heads, length, width] each."""

    @property
    def keys(self) -> Tensor: ...  # noqa: D102

    @property
    def values(self) -> Tensor: ...  # noqa: D102


def read_slot(layers: Sequence[KeysValues], slot: int, length: int) -> Tensor:
    """A copy on the host of a slot's first ``length`` entries.

    It leaves the device as one piece: many small copies would each cost as much as a large one.

    Returns:
        Keys and values of layer after layer, [2 * layers, heads, length, width].
    """
    parts = [part[slot, :, :length] for layer in layers for part in (layer.keys, layer.values)]
    packed = torch.stack(parts)
    if not packed.is_cuda:
        return packed
    # pinned memory is what the device itself reads and writes, twice as fast and more
    return torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True).copy_(packed)


def write_slot(layers: Sequence[KeysValues], slot: int, stored: Tensor) -> None:
    """Put back what `read_slot` returned, into any slot."""
    parts = [part for layer in layers for part in (layer.keys, layer.values)]
    for part, own in zip(parts, stored.to(parts[0].device), strict=True):
        part[slot, :, : own.shape[1]] = own
