"""Loads that are true: saturation per split, and the load that a workload brings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from result_rows import make_row

from laps_env.catalog import list_scenarios
from laps_env.evaluation.grid import Grid
from laps_env.evaluation.runner import Evaluation
from laps_env.report.tables import results_text, warnings_of
from laps_env.sim.costs import CostModel
from laps_env.sim.server_model import ServerModel
from laps_env.sim.workload import Workload
from laps_env.traces.arrival_trace import ArrivalTrace
from laps_env.workloads.arrivals import Poisson, RecordedArrivals
from laps_env.workloads.load import busy_time_s, realised_load
from laps_env.workloads.scenarios import Scenario, get_scenario

POISSON = [n for n in list_scenarios() if get_scenario(n).arrivals == Poisson()]


@pytest.mark.slow
@pytest.mark.parametrize("name", POISSON)
def test_load_is_what_its_label_says(name: str) -> None:
    """With so many requests that the last ones, which no longer fill a batch, do not count."""
    scenario = get_scenario(name)
    count = max(1000, 125 * scenario.server.batch_size)
    loads = [
        realised_load(
            scenario.workload(load=0.9, num_requests=count, split="test", seed=seed),
            scenario.server,
        )
        for seed in range(20)
    ]
    error = float(np.std(loads, ddof=1)) / len(loads) ** 0.5
    assert abs(np.mean(loads) - 0.9) <= max(0.03, 2 * error)


def test_test_questions_have_their_own_saturation() -> None:
    """Those of code-serial-135m take longer: by one rate for all, its load .9 was 1.03."""
    scenario = get_scenario("code-serial-135m")
    assert scenario.saturation("test") < 0.9 * scenario.saturation("validation")
    gaps = [scenario.mean_gap_s(0.9, split) for split in ("test", "validation")]
    assert gaps[0] * scenario.saturation("test") == pytest.approx(1 / 0.9)
    assert gaps[0] > gaps[1]


def two_requests(second_ns: int) -> Workload:
    """Two and three tokens, of which a round of `PLAIN` commits one in 10 ns."""
    return Workload(
        arrival_ns=np.array([20, second_ns]),
        prompt_tokens=np.array([1, 1]),
        output_tokens=np.array([2, 3]),
        predicted_tokens=np.array([2.0, 3.0]),
        category=np.array([0, 0]),
        accepted_length=np.zeros(5, np.uint8),
    )


PLAIN = ServerModel(CostModel(0, 10, 0, 0, 0, 0, 0, 0), draft_length=0)


def test_realised_load_by_hand() -> None:
    workload = two_requests(second_ns=120)
    assert busy_time_s(workload, PLAIN) == pytest.approx(50e-9)
    assert realised_load(workload, PLAIN) == pytest.approx(0.5)  # 50 ns of work in 100 ns
    assert busy_time_s(workload, replace(PLAIN, batch_size=2)) == pytest.approx(30e-9)
    assert realised_load(two_requests(second_ns=20), PLAIN) == np.inf


def hours(quiet_s: float, busy_s: float) -> ArrivalTrace:
    """Recorded arrivals of which each half is half quiet and half busy, by mean gap."""
    gaps = np.tile(np.repeat([quiet_s, busy_s], 200), 2)
    tokens = np.full(gaps.size, 50)
    return ArrivalTrace(np.cumsum(gaps * 1e9).astype(np.int64), tokens, tokens, "by hand")


def test_recorded_windows_are_scaled_one_by_one() -> None:
    scenario = get_scenario("code-serial-8b")
    of_half, by_window = (
        scenario.with_arrivals(RecordedArrivals(hours(9.0, 1.0), scaling))
        for scaling in ("half", "window")
    )

    def loads(scenario: Scenario) -> list[float]:
        drawn = (scenario.workload(load=0.9, num_requests=100, seed=s) for s in range(12))
        return [realised_load(workload, scenario.server) for workload in drawn]

    assert max(loads(of_half)) > 2 * min(loads(of_half))
    assert loads(by_window) == pytest.approx([0.9] * 12, rel=1e-6)
    one = by_window.workload(load=0.9, num_requests=100)
    other = of_half.workload(load=0.9, num_requests=100)
    stretch = one.arrival_ns[1:] / other.arrival_ns[1:]
    np.testing.assert_allclose(stretch, stretch[0], rtol=1e-6)  # the pattern is kept


def test_rows_carry_the_load_realised() -> None:
    grid = Grid(
        policies=("fcfs",), scenarios=("code-serial-135m",), loads=(0.9,), episodes=3,
        num_requests=200,
    )  # fmt: skip
    evaluation = Evaluation(grid)
    evaluation.run()
    results = evaluation.results()
    scenario = get_scenario("code-serial-135m")
    drawn = [
        scenario.workload(load=0.9, num_requests=200, split="test", seed=s) for s in grid.seeds
    ]
    loads = [realised_load(workload, scenario.server) for workload in drawn]
    for row in results.rows:
        assert row.episode_load_realised == loads
        assert row.load_realised == pytest.approx(np.mean(loads))
        assert row.load_realised_range == (min(loads), max(loads))
    assert f"load realised {np.mean(loads):.2f} ({min(loads):.2f} to" in results_text(results)


@pytest.mark.parametrize(
    ("label", "loads", "said"),
    [
        (0.9, [0.91, 0.93, 0.92], None),
        (0.9, [0.94, 0.95, 0.96], "the load realised is 0.95, off its label"),
        (0.9, [0.8, 1.05, 0.99], None),  # 0.95, but within two standard errors
        (0.9, [1.2, 0.9, 1.0], "the load realised is 1.03, above saturation"),
        (0.9, [0.4], None),  # one workload does not tell
        ("recorded", [0.3, 0.31], None),  # has no label to be off
        ("recorded", [1.3, 1.31], "above saturation"),
    ],
)
def test_a_load_off_its_label_is_said(
    label: float | str, loads: list[float], said: str | None
) -> None:
    row = make_row(
        "laps_sd_tuned",
        load=label,
        load_realised=float(np.mean(loads)),
        load_realised_range=(min(loads), max(loads)),
        episode_load_realised=loads,
    )
    found = warnings_of([row])
    assert [said in text for text in found if said] == [True] * len(found) == [True] * bool(said)


def test_order_that_cannot_matter_is_said() -> None:
    rows = [make_row("fcfs", contended_share=0.0), make_row("laps_sd_tuned", contended_share=0.0)]
    assert ["order cannot matter" in text for text in warnings_of(rows)] == [True]
    assert not warnings_of([*rows, make_row("sjf", contended_share=0.01)])
