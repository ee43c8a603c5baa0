"""No number of the simulator changes unnoticed: today's answers against `golden.json`."""

from __future__ import annotations

from typing import Any

import pytest
from golden import (
    RAISE,
    RERUN,
    check_version,
    of_environments,
    of_live,
    of_scenario,
    of_vectors,
    recorded,
)

from laps_env.sim import SIMULATOR_VERSION
from laps_env.workloads.scenarios import list_scenarios

GOLDEN = recorded()


def test_the_numbers_are_those_of_this_version() -> None:
    found = GOLDEN["simulator"]
    message = f"golden.json: expected version {SIMULATOR_VERSION}, got {found}: {RERUN}"
    assert found == SIMULATOR_VERSION, message


def test_every_scenario_has_its_numbers() -> None:
    assert list(GOLDEN["scenarios"]) == list_scenarios()


@pytest.mark.parametrize("scenario", list_scenarios())
def test_scenarios(scenario: str) -> None:
    assert of_scenario(scenario) == GOLDEN["scenarios"][scenario], RAISE


def test_environments() -> None:
    assert of_environments() == GOLDEN["environments"], RAISE


def test_vector_environments() -> None:
    assert of_vectors() == GOLDEN["vectors"], RAISE


def test_live_server(one_thread: None) -> None:
    pytest.importorskip("transformers")
    assert of_live() == GOLDEN["live"], RAISE


def numbers(version: int, **scenarios: list[int]) -> dict[str, Any]:
    return {"simulator": version, "scenarios": scenarios}


def test_other_numbers_and_a_higher_version_go_together() -> None:
    before = numbers(2, chat=[1, 2])
    for same in (numbers(2, chat=[1, 2]), numbers(2, chat=[1, 2], code=[3]), numbers(2)):
        check_version(before, same)
    check_version(before, numbers(3, chat=[1, 9]))
    for version in (1, 2):
        with pytest.raises(SystemExit, match=r"version 2, got version .: raise SIMULATOR_VERSION"):
            check_version(before, numbers(version, chat=[1, 9]))
    with pytest.raises(SystemExit, match=r"no number differs .* version 2: expected it, got 3"):
        check_version(before, numbers(3, chat=[1, 2], code=[3]))
