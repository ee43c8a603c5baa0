"""`Threads`: the servers of a vector environment, divided among threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy.typing as npt

from laps_env.sim.state import BatchedState
from laps_env.utils.jit import unchecked


class Threads:
    """Runs compiled work on parts of a state, which share nothing.

    Args:
        work: Jitted function of what is given, a state, and arrays that belong to its servers.
        given: First arguments of the work.
        num_threads: Threads, at least 1; more than one a server are of no use.
        num_envs: Servers of the state, E.
    """

    def __init__(self, work: Any, given: tuple[Any, ...], num_threads: int, num_envs: int) -> None:
        count = min(num_threads, num_envs)
        edges = [k * num_envs // count for k in range(count + 1)]
        self._own = [slice(begin, end) for begin, end in pairwise(edges)]
        self._work, self._given = work, given
        self._forget()

    def _forget(self) -> None:
        self._call: Callable[..., object] | None = None
        self._state: BatchedState | None = None
        self._parts: list[BatchedState] = []
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        # threads cannot be copied or sent
        return {name: getattr(self, name) for name in ("_own", "_work", "_given")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def run(self, state: BatchedState, *arrays: npt.NDArray[Any]) -> None:
        """Do the work on each part of the state and of arrays [E, ...] (or [0, ...])."""
        if self._call is None:
            work = unchecked(self._work, *self._given, state, *arrays)
            self._call = partial(work, *self._given)
        if len(self._own) == 1:
            self._call(state, *arrays)
            return
        if state is not self._state:  # its arrays have grown
            self._state = state
            self._parts = [BatchedState._make(array[own] for array in state) for own in self._own]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(self._own) - 1, "laps_env")
        parts = [
            (part, *(array[own] for array in arrays))
            for part, own in zip(self._parts, self._own, strict=True)
        ]
        others = [self._pool.submit(self._call, *part) for part in parts[1:]]
        self._call(*parts[0])
        for other in others:
            other.result()
