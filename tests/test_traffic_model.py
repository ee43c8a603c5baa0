"""What is known of traffic is fitted on the train split alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from laps_env.policies.base.traffic_model import fit_traffic_model
from laps_env.traces.arrival_trace import ArrivalTrace
from laps_env.workloads import Workload
from laps_env.workloads.arrivals import RecordedArrivals
from laps_env.workloads.scenarios import Scenario, get_scenario


def test_laws_are_fitted_on_the_train_set_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw = Scenario.workload

    def watched(self: Scenario, **kwargs: Any) -> Workload:
        drawn.append(kwargs["split"])
        return draw(self, **kwargs)

    monkeypatch.setattr(Scenario, "workload", watched)
    laws = fit_traffic_model(get_scenario("code-serial-8b"), 0.5)
    assert drawn == ["train"]
    # Bayes' rule with the profile's deviation, 0.67, and mean, 4.98, of log L
    weight = 0.67**2 / (0.67**2 + 0.5**2)
    assert laws.weight[0] == pytest.approx(weight, abs=0.02)
    assert laws.offset[0] == pytest.approx((1 - weight) * 4.98, abs=0.1)
    assert laws.variance[0] == pytest.approx(weight * 0.5**2, abs=0.01)


def test_laws_of_recorded_lengths_see_the_first_half_alone() -> None:
    lengths = np.repeat([50, 1000], 200)
    trace = ArrivalTrace(np.arange(400) * 10**8, np.full(400, 9), lengths, source="made up")
    arrivals = RecordedArrivals(trace)
    scenario = get_scenario("code-serial-8b").with_arrivals(arrivals).with_lengths_of(arrivals)
    scenario = replace(scenario, saturation_rps={"train": 1.0, "test": 1.0})
    laws = fit_traffic_model(scenario, 0.5)
    assert laws.offset[0] == pytest.approx(math.log(50))
    assert laws.weight[0] == laws.variance[0] == pytest.approx(0.0, abs=1e-9)
    judged = scenario.workload(load=0.9, num_requests=100, split="test")
    assert set(judged.output_tokens) == {1000}
