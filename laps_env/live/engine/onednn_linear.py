"""Linear layers in float32 on a CPU, with weights laid out once for oneDNN.

PyTorch multiplies float32 on a CPU with MKL, which lays the weights out anew in every call: for the
few rows of a round that takes longer than the product, and on processors of AMD the product is slow
too. oneDNN, which PyTorch brings for other types, is two to three times as fast. Both round as
float32 does, in another order.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


def pack(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """The product with a weight [out, in], as `linear`; the weight must not change any more."""
    return (
        partial(_multiply, packed=_lay_out(weight))
        if _can_pack(weight)
        else partial(linear, weight=weight)
    )


class PackedLinears:
    """While entered, the linear layers of a model use packed weights; else it is as it was.

    Layers on other devices and in other types are left alone. The packed weights take as much
    memory as the weights; all that look at one model share them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [m for m in model.modules() if type(m) is nn.Linear and _can_pack(m.weight)]
        self._versions = -1
        self._forwards: list[tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = []

    @classmethod
    def of(cls, model: nn.Module) -> PackedLinears:
        """Packed layers of a model, made where there are none yet."""
        return _PACKED.setdefault(model, cls(model))

    def __enter__(self) -> None:
        versions = sum(layer.weight._version for layer in self._layers)
        if versions != self._versions:  # at first, and after somebody has changed the weights
            self._forwards = [
                (vars(m), partial(_multiply, packed=_lay_out(m.weight), bias=m.bias))
                for m in self._layers
            ]
            self._versions = versions
        for own, forward in self._forwards:
            own["forward"] = forward

    def __exit__(self, *error: object) -> None:
        for own, _ in self._forwards:
            own.pop("forward", None)


_PACKED: weakref.WeakKeyDictionary[nn.Module, PackedLinears] = weakref.WeakKeyDictionary()


def _can_pack(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and not weight.is_inference()  # whose changes nobody could see
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _lay_out(weight: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


def _multiply(inputs: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
