"""What a file with your own rule may say, and what is answered where it says something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laps_env import policies
from laps_env.policies import ARRIVAL_NUMBER, Parameter, RuleSpec, rule
from laps_env.sim.costs import LARGEST_NS, CostModel


@rule
def earliest(row: Any, server: Any, params: Any, memory: Any) -> float:
    return row[ARRIVAL_NUMBER]


def raising(traffic: Any) -> Any:
    raise KeyError("no such law")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"rule": earliest.function}, "mine: rule: expected a function under the decorator rule"),
        ({"cells": "a"}, "mine: cells: expected an integer >= 1, got 'a'"),
        ({"parameters": 3}, "mine: parameters: expected a tuple of Parameter, got 3"),
        ({"parameters": (1.0,)}, "mine: parameters: expected a tuple of Parameter"),
        (
            {"parameters": (Parameter("a", 0.5, 0, 1, ""), Parameter("a", 0.5, 0, 1, ""))},
            "mine: parameters: expected different names",
        ),
        (
            {"parameters": (Parameter("a", float("nan"), 0, 1, ""),)},
            "mine: parameters: expected a with finite numbers, low <= high",
        ),
        (
            {"parameters": (Parameter("a", 0.5, 1, 0, ""),)},
            "mine: parameters: expected a with finite numbers, low <= high",
        ),
        ({"fitted": 3}, "mine: fitted: expected a function of the traffic model, or None, got 3"),
        ({"prepare": print}, "mine: prepare: expected a function under the decorator prepare"),
        ({"slots": 0}, "mine: slots: expected an integer >= 1, got 0"),
        ({"shared": -1}, "mine: shared: expected an integer >= 0, got -1"),
    ],
)
def test_a_wrong_member_is_named(members: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RuleSpec(**dict[str, Any](name="mine", title="", rule=earliest) | members)


@pytest.mark.parametrize(
    ("fitted", "message"),
    [
        (raising, r"mine: fitted: expected constants, got KeyError: 'no such law'"),
        (lambda traffic: np.array([np.nan]), r"mine: fitted: expected finite numbers \[n\]"),
        (lambda traffic: np.zeros((2, 2)), r"mine: fitted: expected finite numbers \[n\], got \(2"),
    ],
)
def test_constants_that_cannot_be_had_are_named(fitted: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policies.make(RuleSpec("mine", "", earliest, fitted=fitted))


def test_a_file_without_the_name_of_its_rule_is_told_how(tmp_path: Path) -> None:
    file = tmp_path / "patient.py"
    file.write_text("")
    with pytest.raises(ValueError, match=r"expected the name of the RuleSpec .*patient.py:NAME"):
        policies.make(str(file))


def test_a_parameter_beyond_its_range_is_said() -> None:
    with pytest.warns(UserWarning, match=r"laps_sd: tolerance: expected 0.02..1, .* got 30"):
        policies.make("laps_sd", tolerance=30)


def test_a_cost_that_would_wrap_the_clock_is_refused() -> None:
    costs: dict[str, Any] = dict.fromkeys(
        CostModel.__dataclass_fields__.keys() - {"source"}, LARGEST_NS
    )
    CostModel(**costs)
    with pytest.raises(ValueError, match=r"draft_step_ns: expected a number in 0 .. 1e\+12"):
        CostModel(**costs | {"draft_step_ns": 1e17})
