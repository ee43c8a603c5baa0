"""A causal language model over a key-value cache with slots.

Speculative decoding leaves every sequence of a batch at another length and takes tokens back in
every round. The caches of transformers keep one length for the whole batch; here each sequence owns
a *slot*, a row of one buffer per layer, and taking tokens back is forgetting a length: what lies
past it is overwritten before it can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

#: One layer's keys and values of one sequence, [tokens, heads, width] each.
StoredLayer = tuple[Tensor, Tensor]


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [slots, length, heads, width] each.

    ``rows`` [batch], ``positions`` [batch, tokens] and ``visible`` say where the coming pass writes
    and how far it reads; `SlotModel.forward` sets them.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, slots: int, length: int) -> None:
        super().__init__()
        self.slots = slots
        self.length = length
        self.rows = torch.zeros(0, dtype=torch.long)
        self.positions = torch.zeros(0, 0, dtype=torch.long)
        self.visible = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate at the first pass, when heads, width, type and device are known."""
        room = (self.slots, self.length)
        self.keys = key_states.new_zeros(*room, key_states.shape[1], key_states.shape[3])
        self.values = value_states.new_zeros(*room, value_states.shape[1], value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [batch, heads, tokens, width]; return what is visible, with ``visible`` tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        where = (self.rows[:, None], self.positions)
        self.keys[where] = key_states.transpose(1, 2)
        self.values[where] = value_states.transpose(1, 2)
        keys = self.keys[self.rows, : self.visible].transpose(1, 2)
        values = self.values[self.rows, : self.visible].transpose(1, 2)
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys under the mask, and the first of them."""
        return self.visible, 0

    def get_seq_length(self) -> int:
        """The batch has no one length: positions and mask are always given."""
        return 0

    def get_max_length(self) -> int:
        """Tokens that a slot holds."""
        return self.length


class SlotModel:
    """A causal model whose sequences live in slots.

    Args:
        model: a decoder-only model of transformers with full attention in every layer.
        slots: sequences that can be resident at once, >= 1.
        length: tokens that a slot holds, 1 to the model's context.

    Raises:
        ValueError: a slot longer than the model's context.
    """

    def __init__(self, model: PreTrainedModel, slots: int, length: int) -> None:
        config = model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", length)
        if not 1 <= length <= context:
            raise ValueError(f"length: expected 1..{context}, the model's context, got {length}")
        self.model = model.eval()
        self.length = length
        # One column more than a sequence may use: padding is written there at the longest.
        self._layers = [SlotLayer(slots, length + 1) for _ in range(config.num_hidden_layers)]
        self._cache = Cache(layers=list(self._layers))

    @torch.inference_mode()
    def forward(
        self, rows: Sequence[int], tokens: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> list[Tensor]:
        """One ragged pass over some slots.

        Args:
            rows: the slot of each sequence, all different.
            tokens: what each sequence feeds, at least one token.
            starts: the position of its first token; all earlier ones must be in the slot.

        Returns:
            Per sequence its logits [tokens, vocabulary], one row after each token fed.
        """
        device = self.model.device
        longest = max(len(fed) for fed in tokens)
        # Shorter sequences repeat their last token past their end, where nobody will look.
        padded = [[*fed, *[fed[-1]] * (longest - len(fed))] for fed in tokens]
        steps = torch.arange(longest, device=device)
        positions = (torch.tensor(starts, device=device)[:, None] + steps).clamp(max=self.length)
        visible = int(positions.max()) + 1
        for layer in self._layers:
            layer.rows = torch.tensor(rows, device=device)
            layer.positions = positions
            layer.visible = visible
        logits = self.model(
            input_ids=torch.tensor(padded, device=device),
            # 4-D, so that transformers passes it through: a token sees what is not after it
            attention_mask=torch.arange(visible, device=device) <= positions[:, None, :, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        return [logits[i, : len(fed)] for i, fed in enumerate(tokens)]

    @torch.inference_mode()
    def read(self, row: int, length: int) -> list[StoredLayer]:
        """A copy on the host of a slot's first ``length`` entries, layer by layer."""
        return [
            (_copy_to_host(layer.keys[row, :length]), _copy_to_host(layer.values[row, :length]))
            for layer in self._layers
        ]

    @torch.inference_mode()
    def write(self, row: int, stored: Sequence[StoredLayer]) -> None:
        """Put back what `read` returned, into any slot."""
        for layer, (keys, values) in zip(self._layers, stored, strict=True):
            layer.keys[row, : len(keys)] = keys.to(layer.keys.device)
            layer.values[row, : len(values)] = values.to(layer.values.device)


def _copy_to_host(part: Tensor) -> Tensor:
    return part.to("cpu", copy=True)
