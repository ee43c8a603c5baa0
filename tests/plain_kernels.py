"""What `laps_env.live.engine.kernels` computes, in plain PyTorch: reference and stand-in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: So few that tests meet both ways of attention.
MOST_QUERIES = 4


def normed(states: Tensor, norm: Any) -> Tensor:
    scale = (states.float().square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    return (states.float() * scale).to(states.dtype) * norm.weight


def gated(inner: Tensor) -> Tensor:
    gate, up = inner.float().chunk(2, -1)
    return (torch.nn.functional.silu(gate) * up).to(inner.dtype)


def place(
    parts: Tensor, turn: tuple[Tensor, Tensor], cells: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    shared, half = keys.shape[1], parts.shape[2] // 2
    cosine, sine = (part[:, None].float() for part in turn)
    both = parts[:, :-shared].float()
    swapped = torch.cat([-both[..., half:], both[..., :half]], -1)
    turned = (both * cosine + swapped * sine).to(parts.dtype)
    keys[cells], values[cells] = turned[:, -shared:], parts[:, -shared:]
    return turned[:, :-shared]


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, starts: Tensor, slots: Tensor, scale: float
) -> Tensor:
    """Token by token and head by head."""
    out = torch.zeros_like(queries)
    group = queries.shape[2] // keys.shape[2]
    for k, (start, slot) in enumerate(zip(starts.tolist(), slots.tolist(), strict=True)):
        for token in range(queries.shape[1]):
            for head in range(queries.shape[2]):
                seen = slot, slice(start + token + 1), head // group
                weights = (keys[seen].float() @ queries[k, token, head].float() * scale).softmax(0)
                out[k, token, head] = (weights @ values[seen].float()).to(out.dtype)
    return out
