"""The compiled kernel and the reference simulator side by side, on one random instance."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from random_instances import random_server, random_workload
from reference import ReferenceServer

from laps_env.sim.costs import CostModel
from laps_env.sim.loops import step_drafts, step_scores, step_sequential
from laps_env.sim.server_model import ServerModel
from laps_env.sim.simulation import UNLIMITED, Simulation
from laps_env.workloads import Workload

REWARD_SCALE = 7.0
SATURATION_RPS = 3.0

NOBODY = np.zeros(1, np.bool_)  # rows to skip
NOT_COPIED = np.zeros((0, 1, 1), np.float32)  # tables


def make_workload(fields: dict[str, Any]) -> Workload:
    """A Workload from the fields of `random_workload` (it works out the offsets itself)."""
    return Workload(**{name: value for name, value in fields.items() if name != "offset"})


def one_request(accepted: list[int], prompt: int = 4, **fields: Any) -> Workload:
    """A request that comes at 0, with the accepted lengths of its positions; further fields."""
    return Workload(
        arrival_ns=np.array([0]),
        prompt_tokens=np.array([prompt]),
        output_tokens=np.array([len(accepted)]),
        predicted_tokens=np.array([float(len(accepted))]),
        category=np.array([0]),
        accepted_length=np.array(accepted, np.uint8),
        **fields,
    )


def make_server(fields: dict[str, Any], slots: int) -> ServerModel:
    """A ServerModel from the fields of `random_server`, its batch cut to the slots."""
    batch_size = min(fields["batch_size"], slots)
    return ServerModel(**fields | {"cost": CostModel(**fields["cost"]), "batch_size": batch_size})


class Pair:
    """One workload on both simulators; every step is taken on both and compared."""

    def __init__(
        self,
        workload: dict[str, Any],
        server: ServerModel,
        slots: int,
        time_limit_ns: int | None = None,
        queue_limit: int | None = None,
        drafts_by_agent: bool = False,
    ) -> None:
        self.slots = slots
        self.workload = make_workload(workload)
        self._make_reference = partial(
            ReferenceServer,
            SimpleNamespace(**workload),
            server,
            slots,
            reward_scale=REWARD_SCALE,
            time_limit_ns=time_limit_ns,
            queue_limit=queue_limit,
            saturation_rps=SATURATION_RPS,
            drafts_by_agent=drafts_by_agent,
        )
        self.simulation = Simulation(
            server,
            slots=slots,
            saturation_rps=SATURATION_RPS,
            time_limit_ns=UNLIMITED if time_limit_ns is None else time_limit_ns,
            queue_limit=UNLIMITED if queue_limit is None else queue_limit,
            drafts_by_agent=drafts_by_agent,
        )
        self.restart()

    def restart(self) -> None:
        """Begin the episode again: a new reference, the same kernel arrays."""
        self.reference = self._make_reference()
        self.simulation.start(0, self.workload)

    @classmethod
    def random(cls, rng: np.random.Generator) -> Pair:
        """A random workload, server, number of slots and limits."""
        workload = random_workload(rng)
        slots = int(rng.integers(1, 9))
        server = make_server(random_server(rng, workload), slots)
        end = int(workload["arrival_ns"][-1]) + 100 * int(server.cost.target_pass_ns)
        return cls(
            workload,
            server,
            slots,
            time_limit_ns=int(rng.integers(1, end)) if rng.random() < 0.2 else None,
            queue_limit=int(rng.integers(1, 20)) if rng.random() < 0.2 else None,
        )

    @property
    def ended(self) -> bool:
        return self.reference.terminated or self.reference.truncated

    def valid_actions(self) -> list[int]:
        nobody = not self.reference.in_slots()  # at the end: a mask is never empty
        start = [self.slots] if self.reference.picked or nobody else []
        return [*sorted(self.reference.selectable()), *start]

    def step_pick(self, action: int) -> None:
        """One single action."""
        step_sequential(
            self.simulation.constants,
            REWARD_SCALE,
            self.simulation.state,
            np.array([action]),
            NOBODY,
            NOT_COPIED,
        )
        self._check_step(*self.reference.step(action))

    def step_draft(self, action: int, draft: int) -> None:
        """One single action with the draft length of what it picks."""
        step_drafts(
            self.simulation.constants,
            REWARD_SCALE,
            self.simulation.state,
            np.array([[action, draft]]),
            NOBODY,
            NOT_COPIED,
        )
        self._check_step(*self.reference.step(action, draft))

    def step_priorities(self, priorities: npt.NDArray[np.float64]) -> None:
        """One whole round, lowest priority first."""
        step_scores(
            self.simulation.constants,
            REWARD_SCALE,
            self.simulation.state,
            priorities[None],
            NOBODY,
            NOT_COPIED,
        )
        self._check_step(*self.reference.step_priorities(list(priorities)))

    def _check_step(
        self, reward: float, dt_ns: int, ran: bool, invalid: bool, terminated: bool, truncated: bool
    ) -> None:
        state = self.simulation.state
        np.testing.assert_allclose(state.reward[0], reward, rtol=1e-9)
        assert state.dt[0] == dt_ns * 1e-9
        assert (state.ran_round[0], state.invalid[0]) == (ran, invalid)
        self.check_clock()
        self.check_observation()
        assert (self._terminated(), state.servers[0]["truncated"]) == (terminated, truncated)

    def _terminated(self) -> bool:
        server = self.simulation.state.servers[0]
        return bool(server["finished"] == server["requests"])

    def check_clock(self) -> None:
        """The time and the counts of the two are equal."""
        server, reference = self.simulation.state.servers[0], self.reference
        assert (server["now"], server["rounds"]) == (reference.now, reference.rounds)
        assert (server["arrived"], server["finished"]) == (
            reference.arrived,
            len(reference.completed),
        )
        assert server["busy_ns"] == reference.now - reference.idle_ns

    def check_observation(self, columns: slice = slice(None)) -> None:
        """The observation and the action mask are equal (``columns`` of the queue)."""
        state = self.simulation.state
        queue, server = self.reference.observation()
        np.testing.assert_allclose(
            state.queue[0, :, columns], queue[:, columns], rtol=1e-6, atol=1e-12
        )
        np.testing.assert_allclose(state.server_obs[0], server, rtol=1e-6, atol=1e-12)
        if columns == slice(None):
            valid = self.valid_actions()
            assert np.flatnonzero(state.mask[0]).tolist() == valid

    def check_gaps(self, gaps_ns: list[int]) -> None:
        """All gaps are counted, each in a bin as wide as a 32nd of the power of two below it."""
        counts = np.zeros_like(self.simulation.state.gaps[0])
        for gap in gaps_ns:
            octave = gap.bit_length() - 1
            counts[32 * octave + (32 * gap >> octave) - 32] += 1
        assert (self.simulation.state.gaps[0] == counts).all()

    def check_results(self) -> None:
        """What happened to every request is equal, in every integer."""
        requests = self.simulation.requests()
        for name in ("first_token_ns", "completion_ns", "preemptions", "recomputed_tokens"):
            expected = [max(getattr(r, name), 0) for r in self.reference.requests]
            assert requests[name].tolist() == expected, name
        longest = [max(r.gaps_ns, default=0) for r in self.reference.requests]
        assert requests["longest_stall_ns"].tolist() == longest
        self.check_gaps([gap for r in self.reference.requests for gap in r.gaps_ns])
        completed = np.flatnonzero(requests["completion_ns"])
        in_order = completed[np.argsort(requests["completion_order"][completed])]
        assert in_order.tolist() == self.reference.completed
        for number in completed:
            assert requests["attained_ns"][number] == self.reference.requests[number].attained_ns
        slots = self.simulation.state.slots[0]
        for request in self.reference.in_slots():
            slot = slots[request.slot]
            assert slot["request"] == request.number
            assert slot["generated"] == request.generated
            assert slot["attained_ns"] == request.attained_ns
