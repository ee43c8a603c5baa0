"""`Policy`: a scheduling rule with its numbers filled in, one object for every backend.

The rule is one compiled function. The whole-round loop of the evaluation calls it inside the
kernel; `Policy.predict` calls the same function on an observation, with the protocol of
stable-baselines3, so a policy runs wherever a model does.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from laps_env.policies.base.decisions import Observation, choose_actions, observed_arrays
from laps_env.policies.base.rule_failure import failure
from laps_env.policies.base.rule_spec import Floats, RuleSpec
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH
from laps_env.sim.loops import Scorer, run_rule
from laps_env.sim.observation import (
    ARRIVAL_NUMBER,
    CATEGORY,
    GENERATED_TOKENS,
    OCCUPIED,
    SERVER_COLUMNS,
)
from laps_env.sim.remaining_rounds import remaining_rounds
from laps_env.sim.server_model import DraftLength, ServerModel
from laps_env.sim.simulation import UNLIMITED, Simulation
from laps_env.sim.state import FREE
from laps_env.sim.workload import Workload
from laps_env.utils.code_digest import code_digest
from laps_env.utils.rule_errors import RuleErrors, caught


class Oracle(NamedTuple):
    """What a clairvoyant rule knows of a workload.

    Attributes:
        remaining: Rounds still to run from each output position, float64 [T].
        offset: First output position of each request, int64 [R + 1].
    """

    remaining: Floats
    offset: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Policy:
    """A rule with its numbers filled in; a value that can be pickled, copied and sent.

    Attributes:
        name: Name of the policy, with ``_tuned`` or ``+smartspec`` where they apply.
        spec: Rule, and what it needs.
        settings: Values of the tunable parameters by name.
        params: Parameters and fitted constants as the rule reads them, float64.
        draft_length: Draft-length rule or table that goes with the order, or None for the server's
            own.
        categories: Task categories of its fitted constants, None where they are for all.
        oracle: Knowledge of a clairvoyant rule, filled by `with_oracle` alone.
    """

    name: str
    spec: RuleSpec
    settings: dict[str, float]
    params: Floats
    draft_length: DraftLength | None = None
    categories: tuple[str, ...] | None = None
    oracle: Oracle | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of its code, weights and draft-length rule.

        Parameters and what was fitted to the traffic are not in it.
        """
        spec = self.spec
        return code_digest(spec.rule, spec.prepare, spec.fitted, spec.cells, self.draft_length)

    def scorer(self, slots: int) -> Scorer:
        """Fresh arrays to score requests inside the kernel, in one thread.

        Args:
            slots: Slots of the table, N.

        Raises:
            ValueError: The rule is made for another number of slots, or is clairvoyant and knows
                nothing.
        """
        self._check_oracle()
        return Scorer(
            self.spec.rule.compiled,
            self.spec.prepare.compiled,
            self.params,
            self._server_cells(slots),
            np.zeros((slots, 1 + self.spec.cells)),
            np.zeros(0) if self.oracle is None else self.oracle.remaining,
            np.empty(slots),
            np.zeros(1, np.int8),
            self.spec.drafts,
        )

    def run(self, simulation: Simulation) -> None:
        """Serve the episode of a simulation's first server to its end, inside the kernel.

        Raises:
            ValueError: What `scorer` raises; or the rule raises, or gives a priority that is not
                finite.
        """
        scorer, state = self.scorer(simulation.slots), simulation.state
        with caught(scorer.raised) as errors:
            failed = run_rule(simulation.constants, state, scorer, UNLIMITED)
        if failed != FREE:
            raise self.failure(state.queue[0, failed], errors)

    def predict(
        self,
        observation: Observation,
        state: Floats | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int64], Floats]:
        """Action for an observation of one environment or of a vector of them.

        Args:
            observation: Arrays ``queue`` [(E,) N, F] and ``server`` [(E,) G].
            state: State that the last call returned; None at first.
            episode_start: Environments whose memory starts anew, bool [E].
            deterministic: Accepted for the protocol's sake; every rule is deterministic.
            action_masks: Accepted for the protocol's sake; the observation has the mask.

        Returns:
            Actions int64 [E] (or a scalar array), and the new state, float64 [E, N, 1 + cells],
            with more rows where the rule keeps what it prepares (`RuleSpec.keeps`).

        Raises:
            ValueError: The arrays have other shapes, or more or fewer slots than the rule is made
                for; a clairvoyant rule has not been given its knowledge of these requests; a
                category has no fitted constants; the state of a rule with memory is missing; or the
                rule raises, or gives a priority that is not finite.
        """
        self._check_oracle()
        queue, server = observed_arrays(observation)
        batched = queue.ndim == 3
        if not batched:
            queue, server = queue[None], server[None]
        self._check_known(queue)
        memory = self._memory(queue.shape[:2], state, episode_start)
        oracle = self.oracle or Oracle(np.zeros(0), np.zeros(0, np.int64))
        actions = np.empty(len(queue), np.int64)
        cells = self._server_cells(queue.shape[1])
        rule, prepare = self.spec.rule.compiled, self.spec.prepare.compiled
        raised = np.zeros(1, np.int8)
        with caught(raised) as errors:
            failed = choose_actions(
                queue, server, cells, memory, rule, prepare, self.params, *oracle, raised, actions
            )
        if failed != FREE:
            rows = queue.reshape(-1, queue.shape[-1])
            raise self.failure(rows[failed], errors)
        if state is None and episode_start is not None and self.oracle is None:
            self._check_kept(memory[~np.broadcast_to(episode_start, len(memory))])
        return (actions if batched else actions[0]), memory

    def asked(self, state: Floats, slots: int) -> tuple[Floats, Floats]:
        """Drafts that a rule that decides them asks for, by what `predict` returned last.

        Args:
            state: State that it returned, of one environment or of E.
            slots: Slots of the table, N.

        Returns:
            Most tokens of each slot's request, and the product of confidences below which its draft
            stops, float64 [E, N] each.

        Raises:
            ValueError: One of them is not finite.
        """
        longest, threshold = np.moveaxis(state[..., :slots, -2:], -1, 0)
        if not (np.isfinite(longest).all() and np.isfinite(threshold).all()):
            raise ValueError(
                f"{self.name}: expected a finite longest draft and threshold for every slot, "
                "got NaN or infinity: guard divisions and logarithms"
            )
        return np.clip(longest, 0, MAX_DRAFT_LENGTH), np.clip(threshold, 0, 1)

    def _check_kept(self, memory: Floats) -> None:
        """Whether nothing is lost where an episode goes on without the state of the last call."""
        if memory[..., 1:].any() or (self.spec.keeps and len(memory) > 0):
            raise ValueError(
                f"{self.name}: expected the state of the last call while an episode goes on, got "
                "None; sb3-contrib's evaluate_policy drops it unless use_masking=False"
            )

    def failure(self, request: npt.NDArray[np.float32], errors: RuleErrors) -> ValueError:
        """Error that the rule fails at the request with these columns [F]."""
        sizes = {"parameters and constants": self.params.size, "cells of memory": self.spec.cells}
        spec = self.spec
        return failure(self.name, spec.rule.function, request, errors.first, sizes, spec.drafts)

    def _check_oracle(self) -> None:
        if self.spec.clairvoyant and self.oracle is None:
            raise ValueError(
                f"{self.name}: expected with_oracle(env.unwrapped.workload(), ...) first: "
                "a clairvoyant rule sees more than the observation"
            )

    def _server_cells(self, slots: int) -> npt.NDArray[np.float32]:
        """Room for the columns of the server and for what is prepared for so many slots."""
        if self.spec.slots not in (None, slots):
            raise ValueError(
                f"{self.name}: expected {self.spec.slots} slots, as it was made for, got {slots}"
            )
        return np.zeros(len(SERVER_COLUMNS) + self._shared(slots), np.float32)

    def _shared(self, slots: int) -> int:
        return self.spec.shared + slots * self.spec.shared_per_slot

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
        if self.oracle is not None:
            offset = self.oracle.offset
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
        """Copy of the state, zero where an episode starts; [E, N + rows, 1 + cells] for [E, N]."""
        envs, slots = shape
        width = 1 + self.spec.cells
        rows = -(-self._shared(slots) // width) if self.spec.keeps else 0
        memory = np.zeros((envs, slots + rows, width))
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
        """Check that the fitted constants are of this workload's categories.

        Raises:
            ValueError: They are of others.
        """
        if self.categories is not None and self.categories != workload.categories:
            raise ValueError(
                f"{self.name}: expected a workload of the categories {self.categories}, "
                f"got {workload.categories}: make the policy for the scenario that it serves"
            )

    def with_oracle(self, workload: Workload, server: ServerModel) -> Policy:
        """Copy that knows a workload's future: the explicit door of clairvoyant rules."""
        remaining = remaining_rounds(workload, server.reference_draft_length)
        return replace(self, oracle=Oracle(remaining, workload.offset))
