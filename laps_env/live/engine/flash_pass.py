"""A pass of a model of the Llama family on a GPU, in half precision and with few launches.

The pass of transformers launches 45 kernels a layer, and copies all that a layer's attention reads
out of the slots. Here attention reads the slots where they are, each as far as it is filled, and a
layer is four products with joined weights, which add to the state, and what `kernels` does between.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from laps_env.live.engine.kernels import MOST_QUERIES, attend, gated, normed, place
from laps_env.live.engine.passes import Pass, choices_of, positions_of


class _Cells(NamedTuple):
    """A layer's keys and values, [slots, heads, cells, width] each, token by token in memory."""

    keys: Tensor
    values: Tensor


class _Reads(NamedTuple):
    """Where a pass writes and what its attention reads.

    Attributes:
        starts: Position of the first token of each sequence, [batch].
        slots: Slot of each sequence, [batch].
        cells: Cells of the fed tokens, counted over all slots, [batch * tokens].
        turn: Cosine and sine of the rotary embedding, [batch * tokens, width].
        shape: Batch and tokens.
    """

    starts: Tensor
    slots: Tensor
    cells: Tensor
    turn: tuple[Tensor, Tensor]
    shape: tuple[int, int]


class FlashPass:
    """A pass over a cache with slots; nothing in it depends on the values of its inputs.

    Weights that are multiplied with the same states are laid behind each other, once; the model's
    own are views of them from then on.

    Args:
        model: Model that `kv_slots.suits_flash` takes.
        rows: Number of slots.
        length: Number of tokens that a slot holds.
    """

    #: Slots are read where they are, each as far as it is filled.
    in_place: ClassVar[bool] = True

    def __init__(self, model: PreTrainedModel, rows: int, length: int) -> None:
        self.length = length
        self._model: Any = model
        base: Any = model.base_model
        self._layers = [_Layer(layer) for layer in base.layers]
        first = self._layers[0]
        make: Any = {"dtype": model.dtype, "device": model.device}
        empty = partial(torch.zeros, rows, length, first.shared, first.width, **make)
        self.layers = [
            _Cells(empty().transpose(1, 2), empty().transpose(1, 2)) for _ in self._layers
        ]

    def __call__(
        self,
        tokens: Tensor,
        starts: Tensor,
        slots: Tensor,
        *,
        visible: int,
        read: slice | None = None,
        last_logits: bool = False,
    ) -> Pass:
        """Feed tokens; arguments as `SlotPass`, whose ``visible`` and ``read`` are not needed."""
        base = self._model.base_model
        positions = positions_of(tokens, starts, self.length)
        states = base.embed_tokens(tokens)
        cosine, sine = base.rotary_emb(states, positions)
        reads = _Reads(
            starts,
            slots,
            (slots[:, None] * self.length + positions).flatten(),
            (cosine.flatten(0, 1).contiguous(), sine.flatten(0, 1).contiguous()),
            (len(tokens), tokens.shape[1]),
        )
        states = states.flatten(0, 1)
        for layer, held in zip(self._layers, self.layers, strict=True):
            layer(states, held, reads)
        hidden = normed(states, base.norm).unflatten(0, reads.shape)
        logits = self._model.lm_head(hidden[:, -1:] if last_logits else hidden)
        return Pass(logits, choices_of(logits), hidden)


class _Layer:
    """One layer: attention over slots, then the gated linear layers."""

    def __init__(self, layer: Any) -> None:
        attention = layer.self_attn
        self.layer = layer
        self.width = int(attention.head_dim)
        self.heads = attention.q_proj.out_features // self.width
        self.shared = attention.k_proj.out_features // self.width
        self.project = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.gate_and_up = _joined(layer.mlp.gate_proj, layer.mlp.up_proj)

    def __call__(self, states: Tensor, held: _Cells, reads: _Reads) -> None:
        """Change the states [batch * tokens, width]."""
        attention, mlp = self.layer.self_attn, self.layer.mlp
        parts = linear(normed(states, self.layer.input_layernorm), *self.project)
        parts = parts.unflatten(1, (-1, self.width))
        if hasattr(attention, "q_norm"):
            parts = self._with_normed_heads(parts)
        keys, values = held.keys.transpose(1, 2), held.values.transpose(1, 2)
        flat = keys.flatten(0, 1), values.flatten(0, 1)
        queries = place(parts, reads.turn, reads.cells, *flat).unflatten(0, reads.shape)
        out = self._attend(queries, keys, values, reads)
        _add_product(states, out.flatten(-2).flatten(0, -2), attention.o_proj)
        inner = linear(normed(states, self.layer.post_attention_layernorm), *self.gate_and_up)
        _add_product(states, gated(inner), mlp.down_proj)

    def _with_normed_heads(self, parts: Tensor) -> Tensor:
        """Queries and keys normed head by head, beside the values."""
        attention = self.layer.self_attn
        queries, keys, values = parts.split([self.heads, self.shared, self.shared], 1)
        queries = normed(queries.contiguous(), attention.q_norm)
        return torch.cat([queries, normed(keys.contiguous(), attention.k_norm), values], 1)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, reads: _Reads) -> Tensor:
        count, scale = reads.shape[1], self.layer.self_attn.scaling
        many = count * (self.heads // self.shared) > MOST_QUERIES
        by = _attend_many if many else attend
        return by(queries, keys, values, reads.starts, reads.slots, scale)


def _attend_many(
    queries: Tensor, keys: Tensor, values: Tensor, starts: Tensor, slots: Tensor, scale: float
) -> Tensor:
    """As `kernels.attend`, for so many tokens that they keep the device busy: PyTorch's own."""
    (batch, count), cells = queries.shape[:2], keys.shape[1]
    ends = torch.arange(batch + 1, device=slots.device, dtype=torch.int32) * count
    begins = torch.cat([slots, slots[-1:]]).int() * cells
    # a padded sequence may read into the next slot: what comes of that nobody looks at
    used = (starts + count).int()
    run: Any = torch.ops.aten._flash_attention_forward
    given = (part.flatten(0, 1) for part in (queries, keys, values))
    out: Tensor = run(
        *given, ends, begins, count, cells, 0.0, True, False, scale=scale, seqused_k=used
    )[0]
    return out


def _add_product(states: Tensor, x: Tensor, layer: nn.Linear) -> None:
    """Add a linear layer's output to the states."""
    states.addmm_(x, layer.weight.t())
    if layer.bias is not None:
        states += layer.bias


def _joined(*layers: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weights and biases of layers one behind the other; the layers' own become views of them."""
    weight = _one_behind_the_other([layer.weight for layer in layers])
    if layers[0].bias is None:
        return weight, None
    return weight, _one_behind_the_other([layer.bias for layer in layers])


def _one_behind_the_other(parts: list[Tensor]) -> Tensor:
    first = parts[0].data
    if len({part.untyped_storage().data_ptr() for part in parts}) == 1:  # another pass did it
        return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())
    joined = torch.cat([part.data for part in parts])
    for part, own in zip(parts, joined.split([len(part) for part in parts]), strict=True):
        part.data = own
    return joined
