"""Metrics of an episode, worked out by hand: populations, no data, the clock's origin."""

from __future__ import annotations

import numpy as np
import pytest

from laps_env.evaluation.rows import statistics_of, with_no_data
from laps_env.sim.metrics import summarize
from laps_env.sim.state import REQUEST, SERVER

SECOND = 10**9


def cut_episode() -> dict[str, float]:
    """Cut at 20 s: a request of one token done, one under way, one waiting, one still to come."""
    requests = np.zeros(4, REQUEST)
    requests["arrival_ns"] = np.array([10, 11, 13, 99]) * SECOND
    requests["output_tokens"] = [1, 5, 5, 5]
    requests["first_token_ns"] = np.array([12, 14, 0, 0]) * SECOND
    requests["completion_ns"] = np.array([12, 0, 0, 0]) * SECOND
    server = np.zeros(1, SERVER)
    server["now"], server["busy_ns"], server["rounds"] = 20 * SECOND, 5 * SECOND, 4
    server["contended"] = 1
    return summarize(requests, server[0], np.full(4, SECOND))


def test_each_mean_is_over_those_who_have_it() -> None:
    found = cut_episode()
    assert [found[name] for name in ("requests", "started", "finished")] == [3, 2, 1]
    assert found["mean_latency_s"] == pytest.approx((2 + 9 + 7) / 3)  # so far, where unfinished
    assert found["mean_ttft_s"] == pytest.approx((2 + 3) / 2)
    assert np.isnan(found["mean_tpot_s"])  # the only finished one has a single token
    assert found["contended_share"] == 0.25


def test_spans_count_from_the_first_arrival() -> None:
    found = cut_episode()
    assert found["makespan_s"] == pytest.approx(10)
    assert found["throughput_rps"] == pytest.approx(0.1)
    assert found["utilization"] == pytest.approx(0.5)


def test_no_data_is_none_in_a_row_and_left_out_of_its_means() -> None:
    without = with_no_data(cut_episode())
    assert without["mean_tpot_s"] is None
    having = without | {"mean_tpot_s": 0.5}
    assert statistics_of([without], [without], None)["mean_tpot_s"] is None
    assert statistics_of([without, having], [without, having], None)["mean_tpot_s"] == 0.5
