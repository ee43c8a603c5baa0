"""`View`: what a person is shown of a server, whatever it is drawn with."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class View(NamedTuple):
    """A server between two steps.

    Attributes:
        queue, server: its observation, [N, F] and [G].
        requests: `laps_env.sim.state.REQUEST` records [R] of the episode; their true lengths
            are not for show.
        now_s: simulated time.
        arrived, finished: requests so far.
        categories: names of the task categories.
        pool_tokens: size of the key-value pool.
        title: what is served.
    """

    queue: npt.NDArray[np.float32]
    server: npt.NDArray[np.float32]
    requests: npt.NDArray[Any]
    now_s: float
    arrived: int
    finished: int
    categories: tuple[str, ...]
    pool_tokens: int
    title: str

    @property
    def mean_latency_s(self) -> float:
        """Of the requests that have arrived; unfinished ones count with their latency so far."""
        seen = self.requests[: self.arrived]
        ends = np.where(seen["completion_ns"] > 0, seen["completion_ns"] * 1e-9, self.now_s)
        return float(np.mean(ends - seen["arrival_ns"] * 1e-9)) if self.arrived else 0.0
