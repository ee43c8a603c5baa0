"""Scenarios that a scheduler is trained for."""

from __future__ import annotations

from itertools import product

from laps_env.agents.options import Traffic
from laps_env.workloads.predictors import PredictorError
from laps_env.workloads.scenarios import Scenario, get_scenario


def sources_of(traffic: Traffic) -> list[tuple[Scenario, PredictorError]]:
    """Each scenario with each error of its length predictions.

    Raises:
        ValueError: recorded predictions of a scenario that has none.
    """
    scenarios = map(get_scenario, traffic.scenario)
    sources: list[tuple[Scenario, PredictorError]] = list(
        product(scenarios, traffic.predictor_errors)
    )
    for scenario, error in sources:
        scenario.error_in_force(error)
    return sources
