"""A pass of a model of the Llama family on a GPU, in half precision and with few launches.

The pass of transformers launches 45 kernels a layer, and copies all that a layer's attention reads
out of the slots. Here attention reads the slots where they are, each as far as it is filled, and a
layer is 14 kernels: products with joined weights that add to the state, and few steps between them.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, silu
from transformers import PreTrainedModel

from laps_env.live.engine.passes import Pass, choices_of, positions_of

#: Model types of transformers whose layers are what is computed here.
_KINDS = ("llama", "qwen2", "qwen3")


class _Cells(NamedTuple):
    """A layer's keys and values, [slots, heads, cells, width] each, token by token in memory."""

    keys: Tensor
    values: Tensor


class _Reads(NamedTuple):
    """Where a pass writes and what its attention reads.

    Attributes:
        cells: Cells of the fed tokens, counted over all slots, [batch * tokens].
        queries: Number of the first token of each sequence, and of all, [batch + 1].
        begins: First cell of each sequence's slot, and one number more, [batch + 1].
        used: Cells that each sequence reads, those of its tokens included, [batch].
        longest: Most tokens that one feeds, and most cells.
    """

    cells: Tensor
    queries: Tensor
    begins: Tensor
    used: Tensor
    longest: tuple[int, int]


class FlashPass:
    """A pass over a cache with slots; nothing in it depends on the values of its inputs.

    Weights that are multiplied with the same states are laid behind each other, once; the model's
    own are views of them from then on.

    Args:
        model: Model that `can_run` takes.
        rows: Number of slots.
        length: Number of tokens that a slot holds.
    """

    def __init__(self, model: PreTrainedModel, rows: int, length: int) -> None:
        base: Any = model.base_model
        self.length = length
        self._model: Any = model
        self._layers = [_Layer(layer) for layer in base.layers]
        shape = rows, length, self._layers[0].shared, self._layers[0].width
        empty = partial(torch.zeros, shape, dtype=model.dtype, device=model.device)
        self.layers = [
            _Cells(empty().transpose(1, 2), empty().transpose(1, 2)) for _ in self._layers
        ]

    @staticmethod
    def can_run(model: PreTrainedModel) -> bool:
        """Whether it computes what the model computes, in the model's type."""
        config = model.config
        known = config.model_type in _KINDS and config.hidden_act == "silu"
        return known and model.dtype in (torch.float16, torch.bfloat16)

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
        base, (batch, count) = self._model.base_model, tokens.shape
        positions = positions_of(tokens, starts, self.length)
        cells = (slots[:, None] * self.length + positions).view(-1)
        ends = torch.arange(batch + 1, device=tokens.device, dtype=torch.int32) * count
        begins = torch.cat([slots, slots[-1:]]).int() * self.length
        # a padded sequence may read into the next slot: what comes of that nobody looks at
        used = (starts + count).int()
        reads = _Reads(cells, ends, begins, used, (count, self.length))
        states = base.embed_tokens(tokens)
        cosine, sine = (part[:, :, None] for part in base.rotary_emb(states, positions))
        half = sine.shape[-1] // 2
        turn = cosine, torch.cat([-sine[..., :half], sine[..., half:]], -1)
        states = states.view(batch * count, -1)
        for layer, held in zip(self._layers, self.layers, strict=True):
            states = layer(states, turn, held, reads)
        hidden = _normed(states, base.norm).view(batch, count, -1)
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

    def __call__(
        self, states: Tensor, turn: tuple[Tensor, Tensor], held: _Cells, reads: _Reads
    ) -> Tensor:
        """States [batch * tokens, width], changed in place."""
        attention, layer = self.layer.self_attn, self.layer
        turned = self.heads + self.shared
        parts = linear(_normed(states, layer.input_layernorm), *self.project)
        parts = parts.view(len(states), -1, self.width)
        both, values = parts[:, :turned], parts[:, turned:]
        if hasattr(attention, "q_norm"):
            queries = _normed(both[:, : self.heads], attention.q_norm)
            both = torch.cat([queries, _normed(both[:, self.heads :], attention.k_norm)], 1)
        both = _rotate(both, turn)
        flat = [part.transpose(1, 2).flatten(0, 1) for part in held]
        flat[0].index_copy_(0, reads.cells, both[:, self.heads :])
        flat[1].index_copy_(0, reads.cells, values)
        out = attend(both[:, : self.heads], flat[0], flat[1], reads, attention.scaling)
        _add_product(states, out.flatten(1), attention.o_proj)
        inner = linear(_normed(states, layer.post_attention_layernorm), *self.gate_and_up)
        gate, up = inner.chunk(2, -1)
        _add_product(states, silu(gate) * up, layer.mlp.down_proj)
        return states


def attend(queries: Tensor, keys: Tensor, values: Tensor, reads: _Reads, scale: float) -> Tensor:
    """Attention [batch * tokens, heads, width] over cells [cells of all slots, heads, width]."""
    run: Any = torch.ops.aten._flash_attention_forward
    rest = reads.queries, reads.begins, *reads.longest, 0.0, True, False
    out: Tensor = run(queries, keys, values, *rest, scale=scale, seqused_k=reads.used)[0]
    return out


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turned by the rotary embedding: [batch * tokens, heads, width]."""
    cosine, signed = (part.flatten(0, 1) for part in turn)
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, -1), signed)


def _normed(states: Tensor, norm: Any) -> Tensor:
    return rms_norm(states, norm.weight.shape, norm.weight, norm.variance_epsilon)


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
