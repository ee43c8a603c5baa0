"""The numbers stored beside the named scenarios."""

from __future__ import annotations

import pytest

from laps_env.workloads.scenarios import get_scenario, list_scenarios


@pytest.mark.parametrize("name", list_scenarios())
def test_the_stored_saturation_is_the_measured_one(name: str) -> None:
    scenario = get_scenario(name)
    measured = scenario.with_saturation().saturation_rps
    assert measured == pytest.approx(scenario.saturation_rps, rel=1e-12)
