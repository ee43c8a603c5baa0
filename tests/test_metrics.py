"""Metrics of an episode, worked out by hand: populations, no data, the clock's origin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from laps_env import policies
from laps_env.evaluation.episodes import evaluate_episode
from laps_env.evaluation.rows import statistics_of, with_no_data
from laps_env.sim.gaps import BINS, count_gap, gap_quantile_s
from laps_env.sim.metrics import summarize
from laps_env.sim.state import LIMITS, NO_LIMIT, REQUEST, SERVER
from laps_env.workloads.limits import Limits
from laps_env.workloads.scenarios import get_scenario

SECOND = 10**9


def cut_episode() -> dict[str, Any]:
    """Cut at 20 s: a request of one token done, one under way, one waiting, one still to come."""
    requests = np.zeros(4, REQUEST)
    requests["arrival_ns"] = np.array([10, 11, 13, 99]) * SECOND
    requests["output_tokens"] = [1, 5, 5, 5]
    requests["first_token_ns"] = np.array([12, 14, 0, 0]) * SECOND
    requests["completion_ns"] = np.array([12, 0, 0, 0]) * SECOND
    for name in LIMITS:
        requests[name] = NO_LIMIT
    server = np.zeros(1, SERVER)
    server["now"], server["busy_ns"], server["rounds"] = 20 * SECOND, 5 * SECOND, 4
    server["contended"] = 1
    return summarize(requests, server[0], np.zeros(BINS, np.int32), np.full(4, SECOND), ("any",))


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


def toy_episode() -> dict[str, Any]:
    """Three requests: (arrival, first token, completion) in s, output tokens, category, limits."""
    requests = np.zeros(3, REQUEST)
    for name, seconds in (
        ("arrival_ns", [0, 1, 2]),
        ("first_token_ns", [1, 4, 3]),
        ("completion_ns", [5, 6, 8]),
        ("longest_idle_ns", [0, 2, 1]),
        ("longest_stall_ns", [3, 2, 5]),
    ):
        requests[name] = np.array(seconds) * SECOND
    requests["output_tokens"] = [5, 2, 6]
    requests["category"] = [0, 1, 0]
    for name in LIMITS:
        requests[name] = NO_LIMIT
    requests["ttft_limit_ns"][:2] = np.array([1, 2]) * SECOND  # met to the nanosecond, missed
    requests["tpot_limit_ns"][0] = SECOND
    requests["e2e_limit_ns"][2] = 7 * SECOND
    gaps = np.zeros(BINS, np.int32)
    for gap in (1, 3, 2, 5):
        count_gap(gaps, gap * SECOND)
    server = np.zeros(1, SERVER)
    server["now"], server["busy_ns"], server["rounds"] = 8 * SECOND, 7 * SECOND, 9
    server["contended"] = 3
    return summarize(requests, server[0], gaps, np.full(3, 2 * SECOND), ("a", "b", "c"))


def test_every_metric_by_hand() -> None:
    found = toy_episode()
    assert found.pop("p99_itl_s") == pytest.approx(5, rel=1 / 64)  # the gaps are 1, 2, 3 and 5 s
    assert found == pytest.approx(
        {
            "requests": 3,
            "started": 3,
            "finished": 3,
            "mean_latency_s": 16 / 3,
            **dict.fromkeys(("p10_latency_s", "p25_latency_s", "p50_latency_s"), 5),
            "p75_latency_s": 5.5,
            "p90_latency_s": 5.8,
            "p95_latency_s": 5.9,
            "p99_latency_s": 5.98,
            "max_latency_s": 6,
            "mean_latency_s/a": 5.5,
            "mean_latency_s/b": 5,
            "mean_ttft_s": 5 / 3,
            **dict.fromkeys(("p10_ttft_s", "p25_ttft_s", "p50_ttft_s"), 1),
            "p75_ttft_s": 2,
            "p90_ttft_s": 2.6,
            "p95_ttft_s": 2.8,
            "p99_ttft_s": 2.96,
            "mean_tpot_s": 4 / 3,
            **dict.fromkeys(("p10_tpot_s", "p25_tpot_s", "p50_tpot_s"), 1),
            "p75_tpot_s": 1.5,
            "p90_tpot_s": 1.8,
            "p95_tpot_s": 1.9,
            "p99_tpot_s": 1.98,
            "longest_stall_s": 5,
            "slo_attainment": 2 / 3,
            "goodput_rps": 2 / 8,
            "mean_slowdown": 8 / 3,
            "max_slowdown": 3,
            "jain_fairness": (17 / 15) ** 2 / (3 * (0.16 + 0.16 + 1 / 9)),
            "max_idle_s": 2,
            "throughput_rps": 3 / 8,
            "throughput_tps": 13 / 8,
            "makespan_s": 8,
            "utilization": 7 / 8,
            "rounds": 9,
            "preemptions": 0,
            "recomputed_tokens": 0,
            "contended_share": 1 / 3,
        }
    )


def test_a_gap_is_known_to_a_64th_of_itself() -> None:
    for gap in (1, 2, 3, 63, 64, 10**6 + 1, 2**33 - 1, 2**33, 987_654_321_012):
        gaps = np.zeros(BINS, np.int32)
        count_gap(gaps, gap)
        assert gap_quantile_s(gaps, 0.5) == pytest.approx(gap * 1e-9, rel=1 / 64)
    counts = np.zeros(BINS, np.int32)
    for gap in [1000] * 99 + [8000]:
        count_gap(counts, gap)
    assert gap_quantile_s(counts, 0.99) == pytest.approx(1e-6, rel=1 / 64)
    assert gap_quantile_s(counts, 0.995) == pytest.approx(8e-6, rel=1 / 64)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "expected ttft_s, tpot_s or e2e_s, got none"),
        ({"ttft_s": -1.0}, "ttft_s: expected seconds in"),
        ({"tpot_s": float("nan")}, "tpot_s: expected seconds in"),
        ({"ttft_s": 2.0, "e2e_s": 1.0}, "e2e_s: expected at least ttft_s = 2, got 1"),
    ],
)
def test_limits_that_nobody_can_mean_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**given)


def test_limits_of_a_category_reach_the_summary() -> None:
    scenario = get_scenario("chat-batch8-8b")
    (name,) = scenario.requests.categories
    served = {}
    for seconds in (1e-3, 1e6):
        limited = replace(scenario, limits={name: Limits(e2e_s=seconds)})
        workload = limited.workload(load=0.9, num_requests=20, split="validation")
        served[seconds] = evaluate_episode(policies.make("fcfs"), workload, limited)
    assert [served[s]["slo_attainment"] for s in served] == [0, 1]
    assert served[1e6]["goodput_rps"] == served[1e6]["throughput_rps"]
    with pytest.raises(ValueError, match=r"limits: expected categories .* got \['poetry'\]"):
        replace(scenario, limits={"poetry": Limits(e2e_s=1.0)}).workload(load=0.9, num_requests=2)
