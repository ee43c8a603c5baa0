"""Traffic that changes: sizes and span of its shifts, and what they do to a workload."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from laps_env.utils.splits import Split
from laps_env.workloads.drift import Drift
from laps_env.workloads.load import realised_load
from laps_env.workloads.random import make_key
from laps_env.workloads.scenario import Scenario
from laps_env.workloads.scenarios import get_scenario


def drifting(**sizes: float) -> Scenario:
    """`mixed-serial-8b` under this drift."""
    scenario = get_scenario("mixed-serial-8b")
    requests: Any = scenario.requests
    return replace(scenario, requests=replace(requests, drift=Drift(span=100.0, **sizes)))


def test_shifts_have_their_sizes_and_span() -> None:
    drift = Drift(span=20.0, mix=0.5, length=0.3, acceptance=0.2, rate=0.4)
    shifts = drift.draw(make_key(Split.TRAIN, 3), 0, 40_000, 2)
    for values, size in ((shifts.mix, 0.5), (shifts.length, 0.3), (shifts.acceptance, 0.2)):
        assert values.shape == (40_000, 2)
        assert values.std(axis=0) == pytest.approx([size] * 2, rel=0.1)
        assert abs(np.asarray(np.corrcoef(values.T))[0, 1]) < 0.1
        path = values[:, 0]
        assert np.asarray(np.corrcoef(path[20:], path[:-20]))[0, 1] == pytest.approx(
            np.exp(-1), abs=0.08
        )
    assert shifts.gap.mean() == pytest.approx(1.0, rel=0.05)
    assert np.log(shifts.gap).std() == pytest.approx(0.4, rel=0.1)


def test_a_length_shift_moves_lengths_and_not_predictions() -> None:
    still, moved = (drifting(length=size).workload for size in (0.0, 0.4))
    made: dict[str, Any] = {"load": 0.8, "num_requests": 400, "seed": 5, "predictor_error": 0.0}
    before, after = still(**made), moved(**made)
    np.testing.assert_array_equal(before.prompt_tokens, after.prompt_tokens)
    ratio = np.log(after.output_tokens / before.output_tokens)
    assert ratio.std() > 0.2
    inside = (after.output_tokens > 20) & (after.output_tokens < 4096)  # neither rounded nor cut
    told = np.log(after.predicted_tokens / before.output_tokens)[inside]
    assert np.abs(told).max() < 0.05


def test_other_shifts_move_what_they_say() -> None:
    made: dict[str, Any] = {"load": 0.8, "num_requests": 2000, "seed": 1}
    before = drifting().workload(**made)
    mixed = drifting(mix=1.5).workload(**made)
    shares = [np.bincount(w.category[:150], minlength=4) / 150 for w in (before, mixed)]
    assert np.abs(shares[0] - 0.25).max() < 0.075 < np.abs(shares[1] - 0.25).max()
    easier = drifting(acceptance=0.5).workload(**made)
    np.testing.assert_array_equal(before.output_tokens, easier.output_tokens)
    assert (before.accepted_length != easier.accepted_length).any()
    rated = drifting(rate=0.5).workload(**made)
    np.testing.assert_array_equal(before.accepted_length, rated.accepted_length)
    ratio = np.diff(rated.arrival_ns) / np.maximum(np.diff(before.arrival_ns), 1)
    assert np.log(ratio).std() > 0.3


@pytest.mark.parametrize("name", ["drift-serial-8b", "drift-batch8-8b"])
def test_every_workload_brings_the_load(name: str) -> None:
    scenario = get_scenario(name)
    for seed in (0, 1):
        workload = scenario.workload(load=0.9, num_requests=300, seed=seed)
        assert realised_load(workload, scenario.server) == pytest.approx(0.9, rel=1e-6)


def test_the_digest_says_whether_traffic_drifts() -> None:
    scenario = get_scenario("mixed-serial-8b")
    assert drifting().digest != scenario.digest
    assert drifting(mix=0.1).digest != drifting(mix=0.2).digest


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="span"):
        Drift(span=0.0)
    with pytest.raises(ValueError, match="rate"):
        Drift(span=1.0, rate=-0.1)
