"""A causal language model over a key-value cache with slots.

Speculative decoding leaves every sequence of a batch at another length and takes tokens back in
every round. Taking tokens back is forgetting a length: what lies past it in the sequence's slot is
overwritten before it can be seen.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from laps_env.live.engine.graphs import GraphedPasses, Shape, bucket, round_up
from laps_env.live.engine.passes import Fed, Pass, split
from laps_env.live.engine.slot_cache import read_slot, write_slot
from laps_env.live.engine.slot_pass import SlotPass

if TYPE_CHECKING:
    from laps_env.live.engine.flash_pass import FlashPass

#: Most tokens of a sequence that one pass of a prefill feeds.
PREFILL_CHUNK = 512

#: Rotary embeddings that transformers computes anew from the longest sequence of a batch.
_CHANGING_ROPE = ("dynamic", "longrope")

#: Model types whose layers are as `FlashPass` computes them, and widths of heads that it takes.
_FLASH_KINDS, _FLASH_WIDTHS = ("llama", "qwen2", "qwen3"), (16, 32, 64, 128, 256)


def longest_context(model: PreTrainedModel) -> int:
    """Most tokens of a sequence, prompt and output, whatever sequences it is batched with.

    A rotary embedding that changes with length turns all of a batch differently once a position of
    one of them, padding included, is past the original context.
    """
    config = model.config.get_text_config()
    context = int(config.max_position_embeddings)
    if not _has_changing_rope(model):
        return context
    return min(context, config.rope_parameters.get("original_max_position_embeddings", context)) - 1


def _has_changing_rope(model: PreTrainedModel) -> bool:
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return rope.get("rope_type") in _CHANGING_ROPE


def suits_flash(model: PreTrainedModel) -> bool:
    """Whether `FlashPass` computes what the model computes, in its type, with what is installed."""
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (
        config.model_type in _FLASH_KINDS
        and config.hidden_act == "silu"
        and model.dtype in (torch.float16, torch.bfloat16)
        and width in _FLASH_WIDTHS
        and find_spec("triton") is not None
    )


def _pass_of(model: PreTrainedModel, rows: int, length: int, on_gpu: bool) -> SlotPass | FlashPass:
    if not (on_gpu and suits_flash(model)):
        return SlotPass(model, rows, length)
    from laps_env.live.engine.flash_pass import FlashPass  # imports Triton

    return FlashPass(model, rows, length)


class SlotModel:
    """A causal model whose sequences live in slots.

    Args:
        model: Decoder-only model of transformers with full attention in every layer.
        slots: Number of sequences that can be resident at once, >= 1.
        length: Number of tokens that a slot holds, 1 to the model's context.
        graphs: Whether passes run in the fixed shapes of `laps_env.live.engine.graphs`; by default
            on a GPU. Then one more slot takes what only fills up a batch.

    On a GPU the process stops using cuDNN's attention, which plans anew, for 0.4 s, for each shape.

    Raises:
        ValueError: A slot longer than the model's context, or a layer with another attention.
    """

    def __init__(
        self, model: PreTrainedModel, slots: int, length: int, *, graphs: bool | None = None
    ) -> None:
        context = longest_context(model)
        if not 1 <= length <= context:
            raise ValueError(f"length: expected 1..{context}, the model's context, got {length}")
        kinds = set(
            getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"]
        )
        if kinds != {"full_attention"}:
            raise ValueError(f"model: expected full attention in every layer, got {sorted(kinds)}")
        self.model = model.eval()
        self.model.set_attn_implementation("grouped")
        self.slots = slots
        self.length = length
        on_gpu = model.device.type == "cuda"
        if on_gpu:
            torch.backends.cuda.enable_cudnn_sdp(False)
        # what a changing embedding computes from its positions cannot be captured
        graphed = (on_gpu if graphs is None else graphs) and not _has_changing_rope(model)
        # One column more than a sequence may use: padding is written there at the longest. One row
        # more is shared by all that only fills up a graph's batch.
        self._pass = _pass_of(model, slots + graphed, length + 1, on_gpu and graphed)
        self._graphs = GraphedPasses(self._pass, model.device) if graphed else None
        self._shapes: set[Shape] = set()

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
        gc.collect()  # engines of before may lie in cycles
        torch.cuda.empty_cache()
        if len(slots) == 1:
            half = len(tokens[0]) // 2
            halves = (tokens[0][:half], starts[0]), (tokens[0][half:], starts[0] + half)
            parts = [
                self.forward(slots, [fed], [start], last_logits=last_logits)
                for fed, start in halves
            ]
            kept = parts[last_logits:]
            return Pass(
                torch.cat([part.logits for part in kept], 1),
                torch.cat([part.choices for part in kept], 1),
                torch.cat([part.hidden for part in parts], 1),
            )
        half = len(slots) // 2
        parts = [
            self.forward(slots[own], tokens[own], starts[own], last_logits=last_logits)
            for own in (slice(half), slice(half, None))
        ]
        return Pass(*map(_stack, zip(*parts, strict=True)))

    def _forward(self, fed: Fed, last_logits: bool) -> Pass:
        batch, longest = len(fed.slots), max(map(len, fed.tokens))
        visible = min(max(fed.starts) + longest, self.length + 1)
        shape = self.shape(batch, longest, visible, last_logits)
        self._shapes.add(shape)
        if self._graphs is None:
            return self._run_in_place(fed, longest, visible, last_logits)
        filled = fed.filled(shape.batch, self.slots).packed(shape.tokens)
        out = self._graphs.run(shape, filled)
        return Pass(*(part[:batch, :longest] for part in out))

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
        inputs = split(ordered.packed(longest).to(self.model.device), len(order))
        out = self._pass(*inputs, visible=visible, read=read, last_logits=last_logits)
        if order == list(range(len(order))):
            return out
        back = torch.tensor(order, device=out.logits.device).argsort()
        return Pass(*(part[back] for part in out))

    @property
    def graphed(self) -> bool:
        """Whether passes run in fixed shapes."""
        return self._graphs is not None

    @property
    def in_place(self) -> bool:
        """Whether a pass reads of each slot what is filled, not as much of all of them."""
        return self._pass.in_place

    def shape(self, batch: int, tokens: int, visible: int, last_logits: bool = False) -> Shape:
        """What a pass is padded to with graphs.

        Args:
            batch: Number of sequences.
            tokens: Most tokens that one feeds.
            visible: Most tokens of a slot, with those, that are read.
            last_logits: See `forward`.
        """
        cells = self.length + 1
        seen = cells if self._pass.in_place else min(round_up(visible), cells)
        return Shape(bucket(batch), min(bucket(tokens), cells), seen, last_logits)

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
    def read(self, slot: int, length: int) -> Tensor:
        """A copy on the host of a slot's first ``length`` entries, for `write`."""
        return read_slot(self._pass.layers, slot, length)

    @torch.inference_mode()
    def write(self, slot: int, stored: Tensor) -> None:
        """Put back what `read` returned, into any slot."""
        write_slot(self._pass.layers, slot, stored)


def _stack(parts: Sequence[Tensor]) -> Tensor:
    """Two halves of a batch, the one with shorter sequences padded."""
    longest = max(part.shape[1] for part in parts)
    beyond = [0, 0] * (parts[0].ndim - 2)
    return torch.cat([pad(part, [*beyond, 0, longest - part.shape[1]]) for part in parts])
