"""Scenarios by name: those that the package carries in `laps_env/data/scenarios`, and files."""

from __future__ import annotations

from laps_env.catalog import is_scenario_file
from laps_env.catalog import list_scenarios as list_scenarios
from laps_env.utils.checks import check_one_of
from laps_env.workloads.scenario import AS_RECORDED as AS_RECORDED
from laps_env.workloads.scenario import DEFAULT_PREDICTOR_ERROR as DEFAULT_PREDICTOR_ERROR
from laps_env.workloads.scenario import Scenario as Scenario
from laps_env.workloads.scenario_file import named_scenario, read_scenario

#: The paper's setting on public runs of Llama-3.1-8B with EAGLE-3 at an H100's costs: one request
#: at a time, lengths that can be predicted, and an order that matters.
DEFAULT_SCENARIO = "mixed-serial-8b"


def get_scenario(scenario: str | Scenario) -> Scenario:
    """Scenario by name, from its file (``mine.toml``), or as it is.

    Raises:
        ValueError: The name is unknown (the message lists the known ones), or the file is none.
        OSError: The file cannot be read.
    """
    if isinstance(scenario, Scenario):
        return scenario
    if is_scenario_file(scenario):
        return read_scenario(scenario)
    check_one_of("scenario", scenario, list_scenarios())
    return named_scenario(scenario)
