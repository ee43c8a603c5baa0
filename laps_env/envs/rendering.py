"""What a person is shown of a server: a `View`, as text here, as a picture in `envs.picture`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from laps_env.envs.options import EnvOptions
from laps_env.sim.observation import (
    ACCEPTED,
    ARRIVAL_NUMBER,
    BACKLOG,
    CACHED,
    DRAFTED,
    FREE_CACHE_TOKENS,
    GENERATED_TOKENS,
    OCCUPIED,
    PICKED,
    PREDICTED_TOKENS,
    RAN,
    WAITING_S,
)
from laps_env.sim.simulation import Simulation
from laps_env.sim.workload import Workload


class View(NamedTuple):
    """A server between two steps.

    Attributes:
        queue: Observation of the requests, [N, F].
        server: Observation of the server, [G].
        requests: Records of the episode's requests, `laps_env.sim.state.REQUEST` [R]; their true
            lengths are not for show.
        now_s: Simulated time.
        arrived: Number of requests that have arrived.
        finished: Number of requests that are finished.
        categories: Names of the task categories.
        pool_tokens: Size of the key-value pool.
        title: Name of what is served.
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
        """Mean latency of the requests that have arrived; unfinished ones count as they are."""
        seen = self.requests[: self.arrived]
        ends = np.where(seen["completion_ns"] > 0, seen["completion_ns"] * 1e-9, self.now_s)
        return float(np.mean(ends - seen["arrival_ns"] * 1e-9)) if self.arrived else 0.0


def view_of(simulation: Simulation, index: int, workload: Workload, options: EnvOptions) -> View:
    """One server of a simulation, and what it serves, as a person is shown it."""
    state = simulation.state
    server = state.servers[index]
    return View(
        queue=state.queue[index],
        server=state.server_obs[index],
        requests=simulation.requests(index),
        now_s=int(server["now"]) * 1e-9,
        arrived=int(server["arrived"]),
        finished=int(server["finished"]),
        categories=workload.categories,
        pool_tokens=options.server.pool_tokens,
        title=f"{options.get_scenario().name}, load {options.load}",
    )


def check_render_mode(render_mode: str | None, modes: Sequence[str]) -> None:
    """Check a render mode.

    Raises:
        ValueError: It is neither None nor one of ``modes``.
    """
    if render_mode not in (None, *modes):
        known = ", ".join(map(repr, modes))
        raise ValueError(f"render_mode: expected None, {known}; got {render_mode!r}")


def as_text(view: View) -> str:
    """Server and requests as text, a line each."""
    server, occupied = view.server, view.queue[view.queue[:, OCCUPIED] == 1]
    requests = occupied[np.argsort(occupied[:, ARRIVAL_NUMBER])]
    lines = [
        f"t = {view.now_s:.3f} s   finished {view.finished}   in slots {len(requests)}   "
        f"backlog {server[BACKLOG]:.0f}   free cache {server[FREE_CACHE_TOKENS]:.0f} tokens",
        "  request  waiting s  generated / predicted  acceptance  state",
    ]
    for row in requests:
        rate = f"{row[ACCEPTED] / row[DRAFTED]:.2f}" if row[DRAFTED] else "-"
        state = "picked" if row[PICKED] else "ran" if row[RAN] else "waiting"
        cache = "" if row[CACHED] else ", no cache"
        lines.append(
            f"  {row[ARRIVAL_NUMBER]:7.0f}  {row[WAITING_S]:9.3f}  {row[GENERATED_TOKENS]:9.0f} / "
            f"{row[PREDICTED_TOKENS]:<9.0f}  {rate:>10}  {state}{cache}"
        )
    return "\n".join(lines)
