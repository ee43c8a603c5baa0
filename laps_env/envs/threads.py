"""`Threads`: the servers of a vector environment, divided among threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

from laps_env.sim.state import BatchedState

Work = Callable[[BatchedState, slice], object]


class Threads:
    """Runs compiled work on parts of a state, which share nothing.

    Args:
        num_threads: Threads, at least 1; more than one a server are of no use.
        num_envs: Servers of the state.
    """

    def __init__(self, num_threads: int, num_envs: int) -> None:
        count = min(num_threads, num_envs)
        edges = [k * num_envs // count for k in range(count + 1)]
        self._own = [slice(begin, end) for begin, end in pairwise(edges)]
        self._forget()

    def _forget(self) -> None:
        self._state: BatchedState | None = None
        self._parts: list[BatchedState] = []
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_own": self._own}  # threads cannot be copied or sent

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def run(self, state: BatchedState, work: Work) -> None:
        """Do the work on each part of the state, given with the indices of its servers."""
        if len(self._own) == 1:
            work(state, self._own[0])
            return
        if state is not self._state:  # its arrays have grown
            self._state = state
            self._parts = [BatchedState._make(array[own] for array in state) for own in self._own]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(self._own) - 1, "laps_env")
        parts = list(zip(self._parts, self._own, strict=True))
        others = [self._pool.submit(work, *part) for part in parts[1:]]
        work(*parts[0])
        for other in others:
            other.result()
