"""`Simulation`: workloads put on replay servers, and the results taken off them.

The only place where arrays are allocated and filled; environments and evaluation drive it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.sim.adaptive_steps import BATCHES, SGLANG
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH
from laps_env.sim.loops import start_episode
from laps_env.sim.observation import QUEUE_COLUMNS, SERVER_COLUMNS
from laps_env.sim.server_model import ServerModel
from laps_env.sim.state import BY_AGENT, FREE, LIMITS, NO_LIMIT, make_state
from laps_env.sim.workload import Workload
from laps_env.utils.checks import check_positive
from laps_env.utils.compile_cache import announce_compilation

#: "No limit" in nanoseconds or requests.
UNLIMITED = 2**62

_GIVEN = ("arrival_ns", "prompt_tokens", "output_tokens", "category", "predicted_tokens")


class Simulation:
    """E replay servers with N slots each.

    Args:
        server: Server model, the same for all.
        num_envs: Number of servers, E.
        slots: Slots of each request table, N, at least the batch size.
        saturation_rps: Saturation throughput, for the observed load estimate.
        time_limit_ns: Time at which an episode is cut, or `UNLIMITED`.
        queue_limit: Requests in the system beyond which an episode is cut, or `UNLIMITED`.
        drafts_by_agent: Whether actions have draft lengths, for the longest of which there is room.

    Raises:
        ValueError: A batch may have more requests than there are slots.
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
        drafts_by_agent: bool = False,
    ) -> None:
        if server.batch_size > slots:
            raise ValueError(
                f"batch_size: expected at most the number of slots ({slots}), "
                f"got {server.batch_size}"
            )
        announce_compilation()
        self.server = server
        self.slots = slots
        self._by_agent = drafts_by_agent
        self.workloads: list[Workload | None] = [None] * num_envs
        self.state = make_state(
            num_envs,
            slots,
            server.acceptance_window,
            len(QUEUE_COLUMNS),
            len(SERVER_COLUMNS),
            adaptive=len(BATCHES) if server.draft_length == SGLANG else 0,
        )
        self.constants = server.constants()
        self.state.servers["saturation_rps"] = saturation_rps
        self.state.servers["time_limit_ns"] = time_limit_ns
        self.state.servers["queue_limit"] = queue_limit

    def start(self, index: int, workload: Workload) -> None:
        """Put a workload on a server and go to its first decision.

        Raises:
            ValueError: A request does not fit the key-value pool.
        """
        scheduled = workload.draft_schedule is not None
        if scheduled and self._by_agent:
            raise ValueError(
                "workload: expected no draft schedule where actions have draft lengths, got one"
            )
        lookahead = self.server.lookahead(scheduled)
        if self._by_agent:
            lookahead = MAX_DRAFT_LENGTH + 1
        check_pool(workload, self.server.pool_tokens, lookahead)
        if self.server.needs_confidence and workload.confidence is None:
            raise ValueError(
                f"workload: expected the draft's confidences for the draft length "
                f"{self.server.draft_length!r}, got none"
            )
        self._make_room(workload)
        state, count = self.state, workload.num_requests
        requests = state.requests[index, :count]
        requests[:] = 0
        for name in _GIVEN:
            requests[name] = getattr(workload, name)
        for k, name in enumerate(LIMITS):
            limits = workload.limits_ns
            requests[name] = NO_LIMIT if limits is None else limits[:, k]
        requests["weight"] = 1.0
        requests["offset"] = workload.offset[:-1]
        state.accepted_length[index, : workload.accepted_length.size] = workload.accepted_length
        if self.server.needs_confidence and workload.confidence is not None:
            state.confidence[index, : workload.confidence.size] = workload.confidence
        if state.max_draft.size:
            given = 255 if workload.max_draft is None else workload.max_draft
            state.max_draft[index, : workload.accepted_length.size] = given
        if workload.draft_schedule is not None and workload.draft_schedule_offset is not None:
            requests["schedule_offset"] = workload.draft_schedule_offset[:-1]
            state.schedule[index, : workload.draft_schedule.size] = workload.draft_schedule
        requests["refresh_offset"] = workload.refresh_offset[:-1]
        if workload.refreshed_tokens is not None:
            state.refreshed_tokens[index, : workload.refreshed_tokens.size] = (
                workload.refreshed_tokens
            )
        server = state.servers[index]
        server["refresh_every"] = workload.refresh_every
        server["requests"], server["lookahead"] = count, lookahead
        server["drafts_by"] = BY_AGENT if self._by_agent else int(scheduled)
        server["limited"] = workload.limits_ns is not None
        self.workloads[index] = workload
        start_episode(self.constants, state, index)

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
            "confidence": positions if self.server.needs_confidence else 0,
            "refreshed_tokens": int(workload.refresh_offset[-1]),
        }
        fills = {"max_draft": 255}
        grown = {
            name: _widened(getattr(self.state, name), need, fills.get(name, 0))
            for name, need in needs.items()
            if getattr(self.state, name).shape[1] < need
        }
        if grown:
            self.state = self.state._replace(**grown)

    def requests(self, index: int = 0) -> npt.NDArray[Any]:
        """Records of a server's requests, what happened to each (`laps_env.sim.state.REQUEST`)."""
        requests = self.state.requests[index, : self.state.servers[index]["requests"]]
        slots = self.state.slots[index]
        running = slots[slots["request"] != FREE]
        requests["preemptions"][running["request"]] = running["preemptions"]
        return np.asarray(requests)


def limit_ns(time_limit_s: float | None) -> int:
    """Time limit for `Simulation`; None is `UNLIMITED`.

    Raises:
        ValueError: The limit is not a finite number > 0.
    """
    if time_limit_s is None:
        return UNLIMITED
    return round(min(check_positive("time_limit_s", time_limit_s) * 1e9, UNLIMITED))


def _widened(array: npt.NDArray[Any], columns: int, fill: int) -> npt.NDArray[Any]:
    """A copy with at least ``columns`` columns, some to spare where it grows again."""
    spare = columns // 4 if array.shape[1] else 0
    wide = np.full((array.shape[0], columns + spare), fill, array.dtype)
    wide[:, : array.shape[1]] = array
    return wide


def check_pool(workload: Workload, pool_tokens: int, lookahead: int) -> None:
    """Check that every request fits the key-value pool alone, with its look-ahead.

    Raises:
        ValueError: A request does not; the message names the first.
    """
    needed = workload.prompt_tokens + workload.output_tokens + lookahead
    if needed.max() > pool_tokens:
        i = int(np.argmax(needed > pool_tokens))
        raise ValueError(
            f"request {i}: needs {needed[i]} cache tokens (prompt {workload.prompt_tokens[i]} + "
            f"output {workload.output_tokens[i]} + look-ahead {lookahead}), "
            f"expected at most pool_tokens = {pool_tokens}"
        )
