"""`Simulation`: workloads put on a state of replay servers, and the results taken off it.

The only place where arrays are allocated and filled; environments and evaluation drive it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.sim.loops import make_state, start_episode
from laps_env.sim.server_model import ServerModel
from laps_env.utils.checks import check_positive
from laps_env.utils.jit import announce_compilation
from laps_env.workloads import Workload

#: "No limit" in nanoseconds or requests.
UNLIMITED = 2**62

_GIVEN = ("arrival_ns", "prompt_tokens", "output_tokens", "category", "predicted_tokens")


class Simulation:
    """E replay servers with N slots each.

    Args:
        server: the server model, the same for all rows.
        num_envs: E.
        slots: N, at least the batch size.
        saturation_rps: for the observed load estimate.
        time_limit_ns, queue_limit: cut an episode there, or `UNLIMITED`.

    Raises:
        ValueError: more requests in a batch than slots.
    """

    def __init__(
        self,
        server: ServerModel,
        *,
        num_envs: int = 1,
        slots: int = 64,
        saturation_rps: float = 1.0,
        time_limit_ns: int = UNLIMITED,
        queue_limit: int = UNLIMITED,
    ) -> None:
        if server.batch_size > slots:
            raise ValueError(
                f"batch_size: expected at most the number of slots ({slots}), "
                f"got {server.batch_size}"
            )
        announce_compilation()
        self.server = server
        self.slots = slots
        self.workloads: list[Workload | None] = [None] * num_envs
        self.state = make_state(num_envs, slots, server.acceptance_window)
        self.constants = server.constants()
        self.state.servers["saturation_rps"] = saturation_rps
        self.state.servers["time_limit_ns"] = time_limit_ns
        self.state.servers["queue_limit"] = queue_limit

    def start(self, row: int, workload: Workload) -> None:
        """Put a workload on server ``row`` and go to its first decision.

        Raises:
            ValueError: a request does not fit the key-value pool.
        """
        scheduled = workload.draft_schedule is not None
        lookahead = self.server.lookahead(scheduled)
        check_pool(workload, self.server.pool_tokens, lookahead)
        self._make_room(workload)
        state, count = self.state, workload.num_requests
        requests = state.requests[row, :count]
        requests[:] = 0
        for name in _GIVEN:
            requests[name] = getattr(workload, name)
        requests["offset"] = workload.offset[:-1]
        state.accepted_length[row, : workload.accepted_length.size] = workload.accepted_length
        if state.max_draft.size:
            given = 255 if workload.max_draft is None else workload.max_draft
            state.max_draft[row, : workload.accepted_length.size] = given
        if workload.draft_schedule is not None and workload.draft_schedule_offset is not None:
            requests["schedule_offset"] = workload.draft_schedule_offset[:-1]
            state.schedule[row, : workload.draft_schedule.size] = workload.draft_schedule
        server = state.servers[row]
        server["requests"], server["lookahead"], server["scheduled"] = count, lookahead, scheduled
        self.workloads[row] = workload
        start_episode(self.constants, state, row)

    def _make_room(self, workload: Workload) -> None:
        """Grow the arrays that hold workloads; what they hold already is kept."""
        scheduled = 0 if workload.draft_schedule is None else workload.draft_schedule.size
        positions = workload.accepted_length.size
        optional = workload.max_draft is not None or self.state.max_draft.size > 0
        needs = {
            "requests": workload.num_requests,
            "accepted_length": positions,
            "max_draft": max(positions, self.state.accepted_length.shape[1]) if optional else 0,
            "schedule": scheduled,
        }
        fills = {"max_draft": 255}
        grown = {
            name: _widened(getattr(self.state, name), need, fills.get(name, 0))
            for name, need in needs.items()
            if getattr(self.state, name).shape[1] < need
        }
        if grown:
            self.state = self.state._replace(**grown)

    def requests(self, row: int = 0) -> npt.NDArray[Any]:
        """What happened to each request of a row's episode (`laps_env.sim.state.REQUEST`)."""
        return np.asarray(self.state.requests[row, : self.state.servers[row]["requests"]])


def limit_ns(time_limit_s: float | None) -> int:
    """A time limit for `Simulation`; None is `UNLIMITED`.

    Raises:
        ValueError: not a finite number > 0.
    """
    if time_limit_s is None:
        return UNLIMITED
    return round(min(check_positive("time_limit_s", time_limit_s) * 1e9, UNLIMITED))


def _widened(array: npt.NDArray[Any], columns: int, fill: int) -> npt.NDArray[Any]:
    """A copy with at least ``columns`` columns, some to spare."""
    wide = np.full((array.shape[0], columns + columns // 4), fill, array.dtype)
    wide[:, : array.shape[1]] = array
    return wide


def check_pool(workload: Workload, pool_tokens: int, lookahead: int) -> None:
    """Every request must fit the key-value pool alone, with its look-ahead.

    Raises:
        ValueError: naming the first request that does not.
    """
    needed = workload.prompt_tokens + workload.output_tokens + lookahead
    if needed.max() > pool_tokens:
        i = int(np.argmax(needed > pool_tokens))
        raise ValueError(
            f"request {i}: needs {needed[i]} cache tokens (prompt {workload.prompt_tokens[i]} + "
            f"output {workload.output_tokens[i]} + look-ahead {lookahead}), "
            f"expected at most pool_tokens = {pool_tokens}"
        )
