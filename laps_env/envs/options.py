"""`EnvOptions`: what ``gym.make`` and ``gym.make_vec`` accept, checked in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.sim.confidence import confident_of
from laps_env.sim.objectives import OBJECTIVES
from laps_env.sim.server_model import DraftLength, ServerModel
from laps_env.sim.state import NO_LIMIT
from laps_env.sim.workload import Workload
from laps_env.utils.checks import (
    MAX_COUNT,
    check_count,
    check_one_of,
    check_positive,
    is_finite,
)
from laps_env.workloads.predictors import PredictorError
from laps_env.workloads.scenarios import Scenario, get_scenario

INTERFACES = ("sequential", "scores", "drafts")
#: What a masked action does: the round starts without it, that and a cost of 1 more, or an error.
ON_INVALID = ("serve_first", "penalty", "error")


@dataclass(frozen=True, kw_only=True)
class EnvOptions:
    """Options of an environment; `laps_env.envs.replay.SpecDecodeReplay` documents each.

    Raises:
        ValueError: A value is out of range; the message names the option, what was expected and
            what came.
    """

    scenario: str | Scenario
    load: float | str
    num_requests: int
    slots: int
    batch_size: int | None
    draft_length: DraftLength | None
    pool_tokens: int | None
    predictor_error: PredictorError
    time_limit_s: float | None
    queue_limit: int | None
    reward_scale: float
    objective: str
    category_weights: Mapping[str, float] | None
    split: str
    interface: str
    on_invalid: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "scenario", get_scenario(self.scenario))
        for name in ("num_requests", "slots"):  # what an observation counts exactly
            check_count(name, getattr(self, name), most=int(MAX_COUNT))
        check_count("queue_limit", self.queue_limit, optional=True)
        object.__setattr__(self, "reward_scale", check_positive("reward_scale", self.reward_scale))
        check_one_of("objective", self.objective, OBJECTIVES)
        if self.time_limit_s is not None:
            check_positive("time_limit_s", self.time_limit_s)
        check_one_of("on_invalid", self.on_invalid, ON_INVALID)
        if self.interface not in INTERFACES:
            raise ValueError(f"interface: expected one of {INTERFACES}, got {self.interface!r}")
        given = self.server.draft_length
        if self.interface == "drafts" and not (isinstance(given, int) or confident_of(given)):
            raise ValueError(
                "draft_length: expected a number or a threshold ('confidence:0.3:8') for the "
                f"interface 'drafts', whose actions choose the longest draft, got {given!r}"
            )
        if self.server.batch_size > self.slots:
            raise ValueError(
                f"batch_size: expected at most the number of slots ({self.slots}), "
                f"got {self.server.batch_size}"
            )
        # Drawn and dropped: what no workload can have fails here, not at the first reset.
        drawn = self.get_scenario().workload(**self._traffic() | {"num_requests": 1})
        self._weights(drawn.categories)

    def get_scenario(self) -> Scenario:
        """Scenario itself, where a name was given."""
        return get_scenario(self.scenario)

    @property
    def server(self) -> ServerModel:
        """Server of the scenario with the overrides."""
        overrides = {
            name: getattr(self, name)
            for name in ("batch_size", "draft_length", "pool_tokens")
            if getattr(self, name) is not None
        }
        return self.get_scenario().server.with_changes(**overrides)

    @property
    def is_default_objective(self) -> bool:
        """Whether the reward is minus the latency of all alike."""
        return self.objective == "mean_latency" and self.category_weights is None

    def request_weights(self, workload: Workload) -> npt.NDArray[np.float64]:
        """Factor of each request's cost under the objective, [R].

        Raises:
            ValueError: A weight of a category that the workload has not, or no request with a limit
                where attainment is the objective.
        """
        limits = workload.limits_ns
        if self.objective == "slo_attainment" and (limits is None or limits.min() >= NO_LIMIT):
            raise ValueError(
                "objective: expected requests with limits for 'slo_attainment' "
                "(a scenario's or a workload's), got none that has one"
            )
        return self._weights(workload.categories)[workload.category]

    def _weights(self, categories: Sequence[str]) -> npt.NDArray[np.float64]:
        """Weights by category, [categories]; 1 where none is given."""
        given = self.category_weights or {}
        for name, weight in given.items():
            check_one_of("category_weights", name, categories)
            if not (is_finite(weight) and weight >= 0):
                raise ValueError(
                    f"category_weights: {name}: expected a finite number >= 0, got {weight!r}"
                )
        return np.array([float(given.get(name, 1.0)) for name in categories])

    def workload(self, seed: int, episode: int) -> Workload:
        """Workload of an episode."""
        return self.get_scenario().workload(seed=seed, episode=episode, **self._traffic())

    def _traffic(self) -> dict[str, Any]:
        names = ("load", "num_requests", "split", "predictor_error")
        asked = {"confidences": self.server.needs_confidence}
        return asked | {name: getattr(self, name) for name in names}
