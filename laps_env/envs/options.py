"""`EnvOptions`: what ``gym.make`` and ``gym.make_vec`` accept, checked in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from laps_env.sim.server_model import ServerModel
from laps_env.sim.workload import Workload
from laps_env.utils.checks import MAX_COUNT, check_count, check_positive
from laps_env.workloads.predictors import PredictorError
from laps_env.workloads.scenarios import Scenario, get_scenario

INTERFACES = ("sequential", "scores")


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
    draft_length: int | str | None
    pool_tokens: int | None
    predictor_error: PredictorError
    time_limit_s: float | None
    queue_limit: int | None
    reward_scale: float
    split: str
    interface: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "scenario", get_scenario(self.scenario))
        for name in ("num_requests", "slots"):  # what an observation counts exactly
            check_count(name, getattr(self, name), most=int(MAX_COUNT))
        check_count("queue_limit", self.queue_limit, optional=True)
        object.__setattr__(self, "reward_scale", check_positive("reward_scale", self.reward_scale))
        if self.time_limit_s is not None:
            check_positive("time_limit_s", self.time_limit_s)
        if self.interface not in INTERFACES:
            raise ValueError(f"interface: expected one of {INTERFACES}, got {self.interface!r}")
        if self.server.batch_size > self.slots:
            raise ValueError(
                f"batch_size: expected at most the number of slots ({self.slots}), "
                f"got {self.server.batch_size}"
            )
        # Drawn and dropped: what no workload can have fails here, not at the first reset.
        self.get_scenario().workload(**self._traffic() | {"num_requests": 1})

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

    def workload(self, seed: int, episode: int) -> Workload:
        """Workload of an episode."""
        return self.get_scenario().workload(seed=seed, episode=episode, **self._traffic())

    def _traffic(self) -> dict[str, Any]:
        names = ("load", "num_requests", "split", "predictor_error")
        return {name: getattr(self, name) for name in names}
