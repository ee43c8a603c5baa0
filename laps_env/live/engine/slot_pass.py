"""A pass of a model of transformers over a cache with slots."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from laps_env.live.engine.onednn_linear import PackedLinears
from laps_env.live.engine.passes import Pass, choices_of, positions_of
from laps_env.live.engine.slot_cache import SlotLayer


class _LastStates:
    """The states that the head read in the last pass."""

    hidden: Tensor

    def keep(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        self.hidden = output.last_hidden_state


class SlotPass:
    """A pass over a cache with slots; nothing in it depends on the values of its inputs.

    Args:
        model: Decoder-only model.
        rows: Number of slots.
        length: Number of tokens that a slot holds.
    """

    #: As much of each slot is read as is asked for.
    in_place: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel, rows: int, length: int) -> None:
        self.layers = [
            SlotLayer(rows, length) for _ in range(model.config.get_text_config().num_hidden_layers)
        ]
        self.length = length
        self._model = model
        self._cache = Cache(layers=list(self.layers))
        self._linears = PackedLinears.of(model)
        self._states = _LastStates()
        hook = model.base_model.register_forward_hook(self._states.keep)
        weakref.finalize(self, hook.remove)  # the model may outlive this view of it

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
        """Feed tokens.

        Args:
            tokens: Token ids [batch, tokens].
            starts: Positions of the first of them, [batch].
            slots: Slot of each sequence, [batch].
            visible: Tokens of each slot that are read.
            read: The same slots where they are neighbours.
            last_logits: Whether to compute the logits of the last column only.
        """
        positions = positions_of(tokens, starts, self.length)
        for layer in self.layers:
            layer.place(slots, positions, visible, read)
        with self._linears:
            logits = self._model(
                input_ids=tokens,
                # 4-D, so that transformers passes it through: a token sees what is not after it
                attention_mask=torch.arange(visible, device=tokens.device)
                <= positions[:, None, :, None],
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1 if last_logits else 0,
            ).logits
        return Pass(logits, choices_of(logits), self._states.hidden)
