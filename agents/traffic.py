"""`Traffic`: what a scheduler is trained for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from laps_env.utils.checks import check_positive
from laps_env.workloads.predictors import RECORDED, PredictorError, make_predictor
from laps_env.workloads.scenarios import Scenario, get_scenario


@dataclass(frozen=True)
class Traffic:
    """Scenarios, errors of the length predictions, loads: all combinations, equally often.

    Attributes:
        scenario: Names of scenarios.
        predictor_errors: Errors of the length predictions
            (`laps_env.workloads.scenarios.Scenario.error_in_force`).
        loads: Arrival rates as shares of saturation, > 0.

    Raises:
        ValueError: One of them is empty or out of range.
    """

    scenario: tuple[str, ...] = ("mixed-serial-135m",)
    predictor_errors: tuple[float | Literal["recorded"] | None, ...] = (None,)
    loads: tuple[float, ...] = (0.7, 0.9)

    def __post_init__(self) -> None:
        for name in ("scenario", "predictor_errors", "loads"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected at least one, got none")
        for scenario, error in self.sources():
            in_force = scenario.error_in_force(error)
            if in_force != RECORDED:
                make_predictor(in_force)
        for load in self.loads:
            check_positive("loads", load)

    def sources(self) -> list[tuple[Scenario, PredictorError]]:
        """Each scenario with each error."""
        return list(product(map(get_scenario, self.scenario), self.predictor_errors))

    def score(self, log_ratios: Sequence[float]) -> float:
        """What a run minimises, from the log ratios of mean and p99 latency to LAPS-SD's."""
        return log_ratios[0]
