"""No number of the simulator changes unnoticed: today's answers against `golden.json`."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from golden import FILE, of_environments, of_live, of_scenario, of_vectors

from laps_env.workloads.scenarios import list_scenarios


def named_as_today(text: str) -> str:
    """The one map of names, from those of the day on which the numbers were taken."""
    recorded = r"\b(chat|code|math|mixed|bursty|pressure|specbench)-(serial|batch8)(?!-)"
    text = re.sub(recorded, r"\1-\2-135m", text)
    return text.replace("SpecDecodeReplayPriority", "SpecDecodeReplayScores")


GOLDEN: dict[str, Any] = json.loads(named_as_today(FILE.read_text(encoding="utf-8")))


def test_every_scenario_has_its_numbers() -> None:
    assert list(GOLDEN["scenarios"]) == list_scenarios()


@pytest.mark.parametrize("scenario", list_scenarios())
def test_scenarios(scenario: str) -> None:
    assert of_scenario(scenario) == GOLDEN["scenarios"][scenario]


def test_environments() -> None:
    assert of_environments() == GOLDEN["environments"]


def test_vector_environments() -> None:
    assert of_vectors() == GOLDEN["vectors"]


def test_live_server(one_thread: None) -> None:
    pytest.importorskip("transformers")
    assert of_live() == GOLDEN["live"]
