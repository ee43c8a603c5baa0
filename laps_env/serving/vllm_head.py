"""The package's draft head as a drafter inside vLLM, for its method "eagle".

vLLM's own EAGLE has no norms before the projection and no last norm, so that our head does not fit
there. The folder that scripts/vllm_models.py writes names the class below as its architecture;
`register` makes it known to vLLM.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.llama import LlamaDecoderLayer
from vllm.model_executor.models.utils import AutoWeightsLoader


class _Head(nn.Module):
    """The layer itself."""

    embed_tokens: nn.Module  # the target's, which vLLM puts here

    def __init__(self, vllm_config: VllmConfig, config: Any, prefix: str) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.token_norm = RMSNorm(width, eps=eps)
        self.state_norm = RMSNorm(width, eps=eps)
        self.fuse = nn.Linear(2 * width, width, bias=False)
        # a name of its own: vLLM keeps the caches of all layers by name, the target's among them
        self.layer = LlamaDecoderLayer(vllm_config, f"{prefix}draft_head.layers.0", config)
        self.last_norm = RMSNorm(width, eps=eps)

    def forward(self, tokens: Tensor, positions: Tensor, states: Tensor) -> Tensor:
        embedded = self.token_norm(self.embed_tokens(tokens))
        x = self.fuse(torch.cat([embedded, self.state_norm(states)], -1))
        added, x = self.layer(positions, x, None)
        return self.last_norm(added, x)[0]


class EagleDraftHead(nn.Module):
    """A `laps_env.live.engine.head.DraftHead` that vLLM runs."""

    has_own_lm_head = True  # or else vLLM puts the target's there, of all tokens

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.speculative_config.draft_model_config.hf_config
        count = self.config.frequent_tokens
        self.model = _Head(vllm_config, self.config, prefix)
        self.lm_head = ParallelLMHead(count, self.config.hidden_size)
        self.frequent = nn.Parameter(torch.zeros(count, dtype=torch.long), requires_grad=False)
        self.logits_processor = LogitsProcessor(count)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """The target's embeddings [tokens, width]."""
        return self.model.embed_tokens(input_ids)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        hidden_states: Tensor,
        inputs_embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """States [tokens, width], for the logits and, the same, for the draft's next step."""
        states = self.model(input_ids, positions, hidden_states)
        return states, states

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        """[tokens, vocabulary]; tokens that cannot be drafted have no chance."""
        own = self.logits_processor(self.lm_head, hidden_states)
        logits = own.new_full((len(own), self.config.vocab_size), -torch.inf)
        logits[:, self.frequent] = own
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Take the weights of the folder; the names of those that were there."""
        return AutoWeightsLoader(self).load_weights(weights)


def register() -> None:
    """Make the head known to vLLM in this process; before its engine is made."""
    from vllm import ModelRegistry

    ModelRegistry.register_model("EagleDraftHead", f"{__name__}:EagleDraftHead")
