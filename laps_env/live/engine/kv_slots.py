"""A causal language model over a key-value cache with slots.

Speculative decoding leaves every sequence of a batch at another length and takes tokens back in
every round. The caches of transformers keep one length for the whole batch; here each sequence owns
a *slot*, a row of one buffer per layer, and taking tokens back is forgetting a length: what lies
past it is overwritten before it can be seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin
from transformers.masking_utils import sdpa_mask

from laps_env.live.engine.graphs import GraphedPasses, Inputs, Pass, Shape, bucket, round_up
from laps_env.live.engine.onednn_linear import PackedLinears

#: Most tokens of a sequence that one pass of a prefill feeds.
PREFILL_CHUNK = 512

#: One layer's keys and values of one sequence, [heads, tokens, width] each.
StoredLayer = tuple[Tensor, Tensor]


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

    def stored(self, slot: int, length: int) -> StoredLayer:
        """A copy on the host of a slot's first ``length`` entries."""
        keys, values = (part[slot, :, :length] for part in (self.keys, self.values))
        return keys.to("cpu", copy=True), values.to("cpu", copy=True)

    def put_back(self, slot: int, stored: StoredLayer) -> None:
        """Write what `stored` returned, into any slot."""
        for part, own in zip((self.keys, self.values), stored, strict=True):
            part[slot, :, : own.shape[1]] = own.to(part.device)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys under the mask, and the first of them."""
        return self.visible, 0

    def get_seq_length(self) -> int:
        """The batch has no one length: positions and mask are always given."""
        return 0

    def get_max_length(self) -> int:
        """Tokens that a slot holds."""
        return self.length


class Fed(NamedTuple):
    """What sequences feed into a pass: slots, tokens, and the positions of their first tokens."""

    slots: Sequence[int]
    tokens: Sequence[Sequence[int]]
    starts: Sequence[int]


class _LastStates:
    """The states that the head read in the last pass."""

    hidden: Tensor

    def keep(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        self.hidden = output.last_hidden_state


class SlotModel:
    """A causal model whose sequences live in slots.

    Args:
        model: Decoder-only model of transformers with full attention in every layer.
        slots: Number of sequences that can be resident at once, >= 1.
        length: Number of tokens that a slot holds, 1 to the model's context.
        graphs: Whether passes run in the fixed shapes of `laps_env.live.engine.graphs`; by default
            on a GPU.

    Raises:
        ValueError: A slot longer than the model's context, or a layer with another attention.
    """

    def __init__(
        self, model: PreTrainedModel, slots: int, length: int, *, graphs: bool | None = None
    ) -> None:
        config = model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", length)
        if not 1 <= length <= context:
            raise ValueError(f"length: expected 1..{context}, the model's context, got {length}")
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise ValueError(f"model: expected full attention in every layer, got {sorted(kinds)}")
        self.model = model.eval()
        self.model.set_attn_implementation("grouped")
        self._states = _LastStates()
        hook = self.model.base_model.register_forward_hook(self._states.keep)
        weakref.finalize(self, hook.remove)  # the model may outlive this view of it
        self.slots = slots
        self.length = length
        graphed = model.device.type == "cuda" if graphs is None else graphs
        self._graphs = GraphedPasses(self._run) if graphed else None
        self._shapes: set[Shape] = set()
        # One column more than a sequence may use: padding is written there at the longest. Rows
        # that only fill up a graph's batch have slots of their own.
        room = slots + (bucket(slots) if graphed else 0)
        self._layers = [SlotLayer(room, length + 1) for _ in range(config.num_hidden_layers)]
        self._cache = Cache(layers=list(self._layers))
        self._linears = PackedLinears.of(model)

    @torch.inference_mode()
    def forward(
        self,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        starts: Sequence[int],
        *,
        last_logits: bool = False,
    ) -> Pass:
        """One ragged pass over some slots.

        Args:
            slots: Slot of each sequence, all different.
            tokens: Tokens that each sequence feeds, at least one.
            starts: Position of its first token; all earlier ones must be in the slot.
            last_logits: Whether to compute the logits of the last column only (of use where all
                feed as many tokens).

        Raises:
            torch.OutOfMemoryError: The device has no room even for one token of one sequence; with
                less room than for all, the pass is done in parts.
        """
        try:
            return self._forward(Fed(slots, tokens, starts), last_logits)
        except torch.OutOfMemoryError:
            if len(slots) == len(tokens[0]) == 1:
                raise
        torch.cuda.empty_cache()
        if len(slots) == 1:
            half = len(tokens[0]) // 2
            halves = (tokens[0][:half], starts[0]), (tokens[0][half:], starts[0] + half)
            parts = [
                self.forward(slots, [fed], [start], last_logits=last_logits)
                for fed, start in halves
            ]
            logits = [part.logits for part in parts[last_logits:]]
            return Pass(torch.cat(logits, 1), torch.cat([part.hidden for part in parts], 1))
        half = len(slots) // 2
        parts = [
            self.forward(slots[own], tokens[own], starts[own], last_logits=last_logits)
            for own in (slice(half), slice(half, None))
        ]
        return Pass(_stack([p.logits for p in parts]), _stack([p.hidden for p in parts]))

    def _forward(self, fed: Fed, last_logits: bool) -> Pass:
        batch, longest = len(fed.slots), max(map(len, fed.tokens))
        visible = min(max(fed.starts) + longest, self.length + 1)
        shape = self.shape(batch, longest, visible, last_logits)
        self._shapes.add(shape)
        if self._graphs is None:
            return self._run_in_place(fed, longest, visible, last_logits)
        spare = range(self.slots, self.slots + shape.batch - batch)
        filled = Fed(
            [*fed.slots, *spare],
            [*fed.tokens, *[[0]] * len(spare)],
            [*fed.starts, *[0] * len(spare)],
        )
        out = self._graphs.run(shape, self._inputs(filled, shape.tokens))
        return Pass(out.logits[:batch, :longest], out.hidden[:batch, :longest])

    def _run_in_place(self, fed: Fed, longest: int, visible: int, last_logits: bool) -> Pass:
        """The pass with its sequences in order of their slots.

        Slots that are neighbours are then read where they are; copying their caches in every layer
        would take as long as half of the pass on a CPU.
        """
        order = sorted(range(len(fed.slots)), key=fed.slots.__getitem__)
        ordered = Fed(
            [fed.slots[i] for i in order],
            [fed.tokens[i] for i in order],
            [fed.starts[i] for i in order],
        )
        first, last = ordered.slots[0], ordered.slots[-1]
        read = slice(first, last + 1) if last - first + 1 == len(order) else None
        inputs = self._inputs(ordered, longest)
        out = self._run(*inputs, visible=visible, read=read, last_logits=last_logits)
        if order == list(range(len(order))):
            return out
        back = torch.tensor(order, device=out.logits.device).argsort()
        return Pass(out.logits[back], out.hidden[back])

    @property
    def graphed(self) -> bool:
        """Whether passes run in fixed shapes."""
        return self._graphs is not None

    def shape(self, batch: int, tokens: int, visible: int, last_logits: bool = False) -> Shape:
        """What a pass is padded to with graphs.

        Args:
            batch: Number of sequences.
            tokens: Most tokens that one feeds.
            visible: Most tokens of a slot, with those, that are read.
            last_logits: See `forward`.
        """
        seen = min(round_up(visible), self.length + 1)
        return Shape(bucket(batch), bucket(tokens), seen, last_logits)

    @property
    def captures(self) -> int:
        """Number of shapes that have come up, each of which is captured where there are graphs."""
        return len(self._shapes)

    def warm_up(
        self,
        batches: Iterable[int],
        tokens: Iterable[int],
        starts: Iterable[int],
        *,
        last_logits: bool = False,
    ) -> None:
        """Have the shapes of passes come up before they are needed; without graphs they are noted.

        Args:
            batches: Numbers of sequences.
            tokens: Numbers of tokens that each feeds.
            starts: Positions of the first of them.
            last_logits: See `forward`.
        """
        for batch, count, first in product(batches, tokens, starts):
            start = min(first, self.length + 1 - count)  # a longer pass sees no more
            shape = self.shape(batch, count, start + count, last_logits)
            if start < 0 or shape in self._shapes:
                continue
            self._shapes.add(shape)
            if self._graphs is not None:  # over the spare slot, where nobody looks
                fed, slots = [[0] * count] * batch, [self.slots] * batch
                self.forward(slots, fed, [start] * batch, last_logits=last_logits)

    def warm_up_prefill(self, longest: int) -> None:
        """Have the passes come up that prefill a new text of up to ``longest`` tokens."""
        for start in range(0, longest, PREFILL_CHUNK):
            chunks = range(1, min(PREFILL_CHUNK, longest - start) + 1)
            self.warm_up([1], chunks, [start], last_logits=True)

    def _inputs(self, fed: Fed, longest: int) -> Inputs:
        """Tokens [batch, longest], their positions, and the slots [batch]."""
        device = self.model.device
        # Shorter sequences repeat their last token past their end, where nobody will look.
        padded = [[*own, *[own[-1]] * (longest - len(own))] for own in fed.tokens]
        steps = torch.arange(longest, device=device)
        positions = (torch.tensor(fed.starts, device=device)[:, None] + steps).clamp(
            max=self.length
        )
        slots = torch.tensor(fed.slots, device=device)
        return torch.tensor(padded, device=device), positions, slots

    def _run(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        *,
        visible: int,
        read: slice | None = None,
        last_logits: bool = False,
    ) -> Pass:
        """The pass itself: nothing in it depends on the values of its inputs, only on shapes."""
        for layer in self._layers:
            layer.place(slots, positions, visible, read)
        with self._linears:
            logits = self.model(
                input_ids=tokens,
                # 4-D, so that transformers passes it through: a token sees what is not after it
                attention_mask=torch.arange(visible, device=tokens.device)
                <= positions[:, None, :, None],
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1 if last_logits else 0,
            ).logits
        return Pass(logits, self._states.hidden)

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Tensor:
        """Feed a long text in chunks; its states [tokens, width].

        Args:
            slot: Slot of the sequence.
            tokens: Tokens to feed, at least one.
            start: Position of the first one; all earlier ones must be in the slot.
        """
        return torch.cat(
            [
                self.forward(
                    [slot], [tokens[at : at + PREFILL_CHUNK]], [start + at], last_logits=True
                ).hidden[0]
                for at in range(0, len(tokens), PREFILL_CHUNK)
            ]
        )

    @torch.inference_mode()
    def read(self, slot: int, length: int) -> list[StoredLayer]:
        """A copy on the host of a slot's first ``length`` entries, layer by layer."""
        return [layer.stored(slot, length) for layer in self._layers]

    @torch.inference_mode()
    def write(self, slot: int, stored: Sequence[StoredLayer]) -> None:
        """Put back what `read` returned, into any slot."""
        for layer, own in zip(self._layers, stored, strict=True):
            layer.put_back(slot, own)


def _stack(parts: Sequence[Tensor]) -> Tensor:
    """Two halves of a batch, the one with shorter sequences padded."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
