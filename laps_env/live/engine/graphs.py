"""Passes in a few fixed shapes, each captured once as a CUDA graph.

The time of a small model's pass is mostly that of launching its kernels, ten in each layer. A
captured graph launches all of them at once, but always with the same shapes and addresses: so
batch and tokens are padded to powers of two, and inputs are copied to where the graph reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from laps_env.live.engine.passes import split

#: The visible part of the cache grows in steps of so many tokens.
VISIBLE_STEP = 256


class Shape(NamedTuple):
    """What a graph is captured for."""

    batch: int
    tokens: int
    visible: int
    last_logits: bool


@dataclass(frozen=True)
class _Captured:
    places: tuple[Tensor, ...]
    replay: Callable[[], Sequence[Tensor]]


class GraphedPasses:
    """Runs a pass by replaying the graph of its shape; the first time, it is captured.

    What a pass returned is overwritten by the next of the same shape, so it is copied out. What it
    computed in between lies in memory that all graphs share, for they never run at once.

    Args:
        run: Function that runs the pass, ``run(*inputs, visible=..., last_logits=...)``; it returns
            tensors.
        device: Device of its inputs; on a CPU the shapes are the same, without graphs.
    """

    def __init__(self, run: Callable[..., Sequence[Tensor]], device: torch.device) -> None:
        self._run = run
        self._device = device
        self._captured: dict[Shape, _Captured] = {}
        self._pool: Any = None

    def run(self, shape: Shape, packed: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """The pass over inputs that are padded to the shape.

        Args:
            shape: Shape.
            packed: Inputs on the host (`passes.split`).
            *more: Inputs on the device.
        """
        if self._device.type == "cuda":
            packed = packed.pin_memory()  # else the copy would wait for the device
        if shape not in self._captured:
            self._captured[shape] = self._capture(shape, packed, *more)
        captured = self._captured[shape]
        for place, given in zip(captured.places, (packed, *more), strict=True):
            place.copy_(given, non_blocking=True)
        return tuple(part.clone() for part in captured.replay())

    def _capture(self, shape: Shape, *given: Tensor) -> _Captured:
        places = tuple(part.to(self._device, copy=True) for part in given)
        inputs = *split(places[0], shape.batch), *places[1:]
        # not a function that knows `self`: in a circle of names a cache would outlive its engine
        once = partial(self._run, *inputs, visible=shape.visible, last_logits=shape.last_logits)
        if self._device.type == "cpu":
            return _Captured(places, once)
        stream, current = self._stream, torch.cuda.current_stream(self._device)
        # libraries allocate on their first call, which a graph cannot hold
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            once()
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=stream):
            out = once()
        self._pool = graph.pool()

        def replay() -> Sequence[Tensor]:
            graph.replay()
            return out

        return _Captured(places, replay)

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        """One for all captures: libraries keep a workspace, tens of MB, for every stream."""
        return torch.cuda.Stream(self._device)


def bucket(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


def round_up(visible: int) -> int:
    """The next multiple of `VISIBLE_STEP`."""
    return -(-visible // VISIBLE_STEP) * VISIBLE_STEP


def first_of_each_shape(longest: int) -> list[int]:
    """Positions up to ``longest``, such that passes from there see all that passes between see."""
    return [*range(0, longest, VISIBLE_STEP), longest - 1]
