"""`Policy`: a scheduling rule with its parameters, one object for every backend.

The rule is one compiled function. The whole-round loop of the evaluation calls it inside the
kernel; `Policy.predict` calls the same function on an observation, with the protocol of
stable-baselines3, so a policy runs wherever a model does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from laps_env.sim.loops import Scorer
from laps_env.sim.observation import (
    ARRIVAL_NUMBER,
    CATEGORY,
    GENERATED_TOKENS,
    OCCUPIED,
    QUEUE_COLUMNS,
    SELECTABLE,
    SERVER_COLUMNS,
)
from laps_env.sim.remaining_rounds import remaining_rounds
from laps_env.sim.server_model import ServerModel
from laps_env.utils.jit import jit, no_preparation
from laps_env.workloads import Workload

Floats = npt.NDArray[np.float64]
Observation = dict[str, npt.NDArray[np.float32]]


class Parameter(NamedTuple):
    """A number that a rule leaves open: its default, and the range in which it is tuned.

    ``source`` is ``"published"`` where the rule's own paper gives the default, else ``"assumed"``.
    """

    name: str
    default: float
    low: float
    high: float
    meaning: str
    source: str = "assumed"
    log: bool = False
    integer: bool = False


@dataclass(frozen=True)
class RuleSpec:
    """What a file of this package exports: a rule and what it needs.

    Attributes:
        name: as the field names it.
        title: one line for lists and tables.
        rule: compiled by `laps_env.utils.jit.rule`.
        parameters: tunable numbers, ``params[0]``, ``params[1]``, ... of the rule.
        cells: float64 cells of memory per request.
        prepare: looks at the whole table first, compiled by `laps_env.utils.jit.prepare`.
        context: float32 cells that it leaves to the rule behind the columns of ``server``.
        shared_per_slot: so many more for each slot.
        slots: rows of the table that the rule is made for, None for any.
        fitted: from the training split (`laps_env.policies.base.traffic_model.TrafficModel`) to the
            constants that follow the parameters in ``params``; None for a rule that needs no law.
        by_category: the fitted constants are per task category, so the rule serves only traffic of
            the categories that it was fitted on.
        clairvoyant: the rule finds the true remaining rounds in its first cell.
    """

    name: str
    title: str
    rule: Any
    parameters: tuple[Parameter, ...] = ()
    cells: int = 1
    prepare: Any = no_preparation
    context: int = 0
    shared_per_slot: int = 0
    slots: int | None = None
    fitted: Callable[[Any], Floats] | None = None
    by_category: bool = False
    clairvoyant: bool = False


@dataclass(frozen=True)
class Policy:
    """A rule with its numbers filled in.

    Attributes:
        name: of the policy, with ``_tuned`` or ``+smartspec`` where they apply.
        spec: the rule.
        settings: values of the tunable parameters by name.
        params: float64, parameters and fitted constants as the rule reads them.
        draft_length: a draft-length rule that goes with the order, or None for the server's own.
        categories: those of its fitted constants, None where they are not per category.
        truth: rounds still to run from each output position, and where each request's begin;
            filled by `with_oracle` alone.
    """

    name: str
    spec: RuleSpec
    settings: dict[str, float]
    params: Floats
    draft_length: str | None = None
    categories: tuple[str, ...] | None = None
    truth: tuple[Floats, npt.NDArray[np.int64]] | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of everything that decides its choices but its parameters."""
        return hashlib.sha256(self.spec.name.encode()).hexdigest()[:16]

    def scorer(self, slots: int, truth: Floats | None = None) -> Scorer:
        """Fresh arrays to score so many slots inside the kernel, in one thread.

        Args:
            slots: N.
            truth: rounds still to run from each output position, for a clairvoyant rule.

        Raises:
            ValueError: a rule that is made for another number of slots.
        """
        return Scorer(
            self.spec.rule,
            self.spec.prepare,
            self.params,
            self._view(slots),
            np.zeros((slots, 1 + self.spec.cells)),
            np.zeros(0) if truth is None else truth,
            np.empty(slots),
        )

    def predict(
        self,
        observation: Observation,
        state: Floats | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[npt.NDArray[np.int64], Floats]:
        """The action for an observation of one environment or of a vector of them.

        Args:
            observation: ``queue`` [(E,) N, F] and ``server`` [(E,) G].
            state: what the last call returned; None at first.
            episode_start: bool [E], rows whose memory starts anew.
            deterministic: every rule is; accepted for the protocol's sake.

        Returns:
            Actions int64 [E] (or a scalar array), and the new state, float64 [E, N, 1 + cells].

        Raises:
            ValueError: arrays of other shapes, more or fewer slots than the rule is made for, a
                clairvoyant rule that has not been given its knowledge of these requests, or a
                category without fitted constants.
        """
        if self.spec.clairvoyant and self.truth is None:
            raise ValueError(
                f"{self.name}: expected with_oracle(env.unwrapped.workload(), ...) first: "
                "a clairvoyant rule sees more than the observation"
            )
        queue, server = _arrays(observation)
        batched = queue.ndim == 3
        if not batched:
            queue, server = queue[None], server[None]
        self._check_known(queue)
        memory = self._memory(queue.shape[:2], state, episode_start)
        truth, offset = self.truth or (np.zeros(0), np.zeros(0, np.int64))
        actions = np.empty(len(queue), np.int64)
        view = self._view(queue.shape[1])
        rule, prepare = self.spec.rule, self.spec.prepare
        _choose(queue, server, view, memory, rule, prepare, self.params, truth, offset, actions)
        return (actions if batched else actions[0]), memory

    def _view(self, slots: int) -> npt.NDArray[np.float32]:
        """Room for the server's columns and what the prepare finds in so many slots."""
        if self.spec.slots not in (None, slots):
            raise ValueError(
                f"{self.name}: expected {self.spec.slots} slots, as it was made for, got {slots}"
            )
        found = self.spec.context + slots * self.spec.shared_per_slot
        return np.zeros(len(SERVER_COLUMNS) + found, np.float32)

    def _check_known(self, queue: npt.NDArray[np.float32]) -> None:
        """Whether what the rule looks up by a request's category or progress is there."""
        if self.categories is not None:
            category = queue[:, :, CATEGORY]
            if not ((category >= 0) & (category < len(self.categories))).all():
                raise ValueError(
                    f"{self.name}: expected categories 0..{len(self.categories) - 1} "
                    f"({', '.join(self.categories)}), got {category.max():.0f}: "
                    "make the policy for the scenario that it serves"
                )
        if self.truth is not None:
            offset = self.truth[1]
            requests = queue[queue[:, :, OCCUPIED] != 0]
            number, generated = requests[:, ARRIVAL_NUMBER], requests[:, GENERATED_TOKENS]
            if (
                not ((number >= 0) & (number < offset.size - 1) & (generated >= 0)).all()
                or (generated >= np.diff(offset)[number.astype(np.int64)]).any()
            ):
                raise ValueError(
                    f"{self.name}: expected the {offset.size - 1} requests that it knows, got "
                    "others: with_oracle(env.unwrapped.workload(), ...) again in each episode"
                )

    def _memory(
        self,
        shape: tuple[int, ...],
        state: Floats | None,
        episode_start: npt.NDArray[np.bool_] | None,
    ) -> Floats:
        """A copy of the state, zero where an episode starts; [E, N, 1 + cells] for [E, N]."""
        memory = np.zeros((*shape, 1 + self.spec.cells))
        if state is not None:
            if np.shape(state) != memory.shape:
                raise ValueError(
                    f"state: expected what the last call returned, {memory.shape}, "
                    f"got {np.shape(state)}"
                )
            memory[:] = state
        if episode_start is not None:
            start = np.asarray(episode_start, np.bool_)
            if start.shape not in ((), shape[:1]):
                raise ValueError(f"episode_start: expected {shape[:1]}, got {start.shape}")
            memory[start] = 0.0
        return memory

    def check_categories(self, workload: Workload) -> None:
        """Whether the fitted constants are of this workload's categories.

        Raises:
            ValueError: they are of others.
        """
        if self.categories is not None and self.categories != workload.categories:
            raise ValueError(
                f"{self.name}: expected a workload of the categories {self.categories}, "
                f"got {workload.categories}: make the policy for the scenario that it serves"
            )

    def with_oracle(self, workload: Workload, server: ServerModel) -> Policy:
        """A copy that knows a workload's future: the explicit door of clairvoyant rules."""
        draft_length = server.reference_draft_length
        return replace(self, truth=(remaining_rounds(workload, draft_length), workload.offset))


def _arrays(observation: Observation) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """``queue`` [(E,) N, F] and ``server`` [(E,) G] as the compiled code takes them.

    Raises:
        ValueError: one is missing, or the shapes are others.
    """
    try:
        queue, server = (
            np.ascontiguousarray(observation[name], np.float32) for name in ("queue", "server")
        )
    except (KeyError, IndexError, TypeError):
        raise ValueError(
            f"observation: expected a dict with queue and server, got {type(observation).__name__}"
        ) from None
    columns, entries = len(QUEUE_COLUMNS), len(SERVER_COLUMNS)
    if queue.ndim not in (2, 3) or (
        (queue.shape[-1], *server.shape) != (columns, *queue.shape[:-2], entries)
    ):
        raise ValueError(
            f"observation: expected queue [(E,) N, {columns}] and server [(E,) {entries}], "
            f"got {queue.shape} and {server.shape}"
        )
    return queue, server


@jit
def _choose(
    queue: npt.NDArray[np.float32],
    server: npt.NDArray[np.float32],
    view: npt.NDArray[np.float32],
    memory: Floats,
    rule: Any,
    prepare: Any,
    params: Floats,
    truth: Floats,
    offset: npt.NDArray[np.int64],
    actions: npt.NDArray[np.int64],
) -> None:
    """The selectable slot of lowest priority, ties to the earlier arrival; else start the round.

    The arguments are plain arrays because a named tuple of them costs more than the choice itself
    each time it crosses into compiled code.
    """
    for i in range(queue.shape[0]):
        for j in range(server.shape[1]):
            view[j] = server[i, j]
        prepare(queue[i], view, params)
        best, best_priority = queue.shape[1], np.inf
        for k in range(queue.shape[1]):
            row = queue[i, k]
            if row[OCCUPIED] == 0:
                continue
            cells = memory[i, k]
            if cells[0] != row[ARRIVAL_NUMBER] + 1:
                cells[:] = 0.0
                cells[0] = row[ARRIVAL_NUMBER] + 1
            if truth.size > 0:
                position = offset[np.int64(row[ARRIVAL_NUMBER])] + np.int64(row[GENERATED_TOKENS])
                cells[1] = truth[position]
            priority = rule(row, view, params, cells[1:])
            earlier = (
                best == queue.shape[1]
                or priority < best_priority
                or (
                    priority == best_priority
                    and row[ARRIVAL_NUMBER] < queue[i, best, ARRIVAL_NUMBER]
                )
            )
            if row[SELECTABLE] == 1 and earlier:
                best, best_priority = k, priority
        actions[i] = best
