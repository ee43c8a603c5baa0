"""Laws of lengths with heavy tails, and the rules that know them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from observed import Row, observe, order_of
from scipy import stats
from test_rule_orders import LAWS, priority_of, with_laws

from laps_env import policies
from laps_env.policies import Policy
from laps_env.policies.base import traffic_model
from laps_env.policies.base.length_law import (
    choose_law,
    length_survival,
    limited_mean,
    limited_mean_table,
    median_distance,
)
from laps_env.policies.base.traffic_model import TrafficModel, fit_traffic_model
from laps_env.policies.gittins import index_table
from laps_env.sim.observation import (
    BATCH_SIZE,
    CATEGORY,
    GENERATED_TOKENS,
    PREDICTED_TOKENS,
    ROUNDS,
    WAITING_S,
)
from laps_env.workloads.scenarios import get_scenario

HEAVY = 1 / 3.5


def law_of(heaviness: float) -> Any:
    return stats.t(1 / heaviness) if heaviness else stats.norm()


@pytest.mark.parametrize("heaviness", [0.0, 1 / 16, HEAVY, 0.4])
def test_survival_and_limited_means_are_those_of_the_law(heaviness: float) -> None:
    law = law_of(heaviness)
    z = np.linspace(-8, 30, 77)
    found = length_survival(np.exp(0.5 * z), 0.5, heaviness)
    np.testing.assert_allclose(found, law.sf(z), rtol=1e-7)
    assert median_distance(0.5, heaviness) == pytest.approx(0.5 * law.ppf(0.75), rel=1e-4)
    lengths = 200 * np.exp(0.5 * law.ppf((np.arange(400_000) + 0.5) / 400_000))  # ascending
    for share in (1.0, 0.1):
        table = limited_mean_table(0.5, heaviness, share)
        for limit in (20, 150, 900, 50_000):
            longest = np.minimum(lengths[int((1 - share) * 400_000) :], limit)
            mean = limited_mean.py_func(math.log(200), math.log(limit), table)
            assert mean == pytest.approx(longest.mean(), rel=5e-3)


@pytest.mark.parametrize("heaviness", [0.0, 1 / 8, HEAVY])
def test_the_law_is_the_one_that_the_lengths_were_drawn_from(heaviness: float) -> None:
    halves = np.arange(20_000) % 2 == 0
    drawn = 0.5 * law_of(heaviness).rvs(20_000, random_state=np.random.default_rng(3))
    found, scale = choose_law(drawn, halves)
    assert found == heaviness
    assert scale == pytest.approx(0.5, rel=0.03)


def test_lengths_that_cannot_tell_are_normal() -> None:
    alike = choose_law(np.zeros(10), np.arange(10) % 2 == 0)
    assert alike == (0.0, 1e-3)
    once = choose_law(np.array([1.0, -1.0]), np.ones(2, bool))  # one request, drawn twice
    assert once == (0.0, 1.0)


def test_requests_drawn_again_are_in_the_same_half(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def watched(residuals: Any, halves: Any) -> tuple[float, float]:
        seen.append(halves)
        return 0.0, 1.0

    monkeypatch.setattr(traffic_model, "choose_law", watched)
    scenario = get_scenario("chat-serial-135m")
    fit_traffic_model(scenario, None)
    source = traffic_model.training_workload(scenario, None).source_index
    assert source is not None
    first, second = (set(source[half]) for half in (seen[0], ~seen[0]))
    assert not first & second
    assert abs(len(first) - len(second)) <= 1


def with_heavy(laws: TrafficModel) -> TrafficModel:
    return replace(laws, heaviness=np.array([HEAVY, 0.0]), scale=np.array([0.5, 0.4]))


@pytest.mark.parametrize("age", [0.0, 0.5, 1.3, 6.0])
def test_the_heavy_gittins_table_is_the_brute_force_index(age: float) -> None:
    """The smallest of E[min(rest, D)] / P(rest <= D) over D, for log-t of scale 1/2.

    D is no less than a thousandth of the scale: the law is so dense at 0 that D -> 0 would be best.
    """
    spans = np.concatenate([[0.0], np.geomspace(5e-4 * (1 + age), 1e4, 40_001)])
    alive = stats.t.sf(2 * np.log(np.maximum(age + spans, 1e-300)), 3.5)
    alive /= alive[0]
    served = np.cumsum(np.diff(spans) * (alive[1:] + alive[:-1]) / 2)
    finished = 1 - alive[1:]
    index = (served[finished > 1e-9] / finished[finished > 1e-9]).min()
    grid = age / (1 + age) * 128
    left = int(grid)
    table = index_table(0.5, HEAVY)
    found = (table[left] + (table[left + 1] - table[left]) * (grid - left)) * (1 + age)
    assert found == pytest.approx(index, rel=5e-3)


def test_heavy_tails_make_gittins_leave_what_runs_on_and_on() -> None:
    """Where the law is normal, it is `gittins`; 5 medians into a heavy one it stands back."""
    plain, heavy = with_laws("gittins", LAWS), with_laws("gittins_heavy", with_heavy(LAWS))
    alike = with_laws("gittins_heavy", LAWS)
    np.testing.assert_allclose(alike.params, plain.params, rtol=1e-12)
    rows: list[Row] = [
        {PREDICTED_TOKENS: 200, GENERATED_TOKENS: 500, ROUNDS: 250},  # of median 100
        {PREDICTED_TOKENS: 600, CATEGORY: 1},
    ]
    assert order_of(plain, observe(rows)) == order_of(alike, observe(rows)) == [0, 1]
    assert order_of(heavy, observe(rows)) == [1, 0]


def test_the_heavy_mean_is_cut_at_the_longest_length() -> None:
    """Of a log-normal of median 100 and variance 1/2, cut at 1,000."""
    sd, cut = math.sqrt(0.5), math.log(10)
    below = math.exp(0.25) * stats.norm.cdf(cut / sd - sd) * 100
    mean = below + 1000 * stats.norm.sf(cut / sd)
    policy = with_laws("bayes_srpt_heavy", LAWS)
    rows = [{PREDICTED_TOKENS: 200, GENERATED_TOKENS: 28, ROUNDS: 14}]
    assert priority_of(policy, observe(rows)) == pytest.approx((mean - 28) / 2, rel=1e-3)
    heavy = with_laws("bayes_srpt_heavy", with_heavy(LAWS))
    expected = 100 * math.exp(limited_mean_table(0.5, HEAVY)[50] + 50 / 8 - 4)  # e^2.25 ~ 10
    assert priority_of(heavy, observe(rows)) == pytest.approx((expected - 28) / 2, rel=0.01)


def prepared(policy: Policy, rows: list[Row], batch: int, slot: int = 0) -> float:
    """The rule's own number after its look at the table."""
    observation = observe(rows, {BATCH_SIZE: batch})
    server = np.append(observation["server"], np.float32(0))
    policy.spec.prepare.function(observation["queue"], server, policy.params)
    memory = np.zeros(policy.spec.cells)
    return float(
        policy.spec.rule.function(observation["queue"][slot], server, policy.params, memory)
    )


def test_tie_by_hand() -> None:
    """Median 100, quartiles as those of a normal law of deviation sqrt(1/2), cut at 1,000."""
    law = stats.t(3.5)
    scale = math.sqrt(0.5) * stats.norm.ppf(0.75) / law.ppf(0.75)
    lengths = 100 * np.exp(scale * law.ppf((np.arange(200_000) + 0.5) / 200_000))
    lengths = np.minimum(lengths, 1000)
    mean, longest = lengths.mean(), lengths[180_000:].mean()
    policy = with_laws("tie", LAWS)
    one: Row = {PREDICTED_TOKENS: 200}
    started: Row = {PREDICTED_TOKENS: 200, ROUNDS: 1}
    for waiting, beta in ((1, 0.1), (8, 0.2), (12, 0.3), (90, 0.5)):
        found = prepared(policy, [one] * waiting + [started] * 9, batch=4)
        assert found == pytest.approx(mean + beta * longest, rel=2e-3)
    waited = prepared(policy, [{**one, WAITING_S: 60.0}], batch=4)
    assert waited == pytest.approx(0.81 * (mean + 0.1 * longest), rel=2e-3)
    assert prepared(policy, [one, started], batch=4, slot=1) == 0


def test_a_longer_queue_makes_tie_shun_the_uncertain() -> None:
    """Two of the same mean but of different spread change places as more requests wait."""
    laws = replace(LAWS, scale=np.array([1.0, 0.1]), heaviness=np.array([HEAVY, HEAVY]))
    policy = with_laws("tie", replace(laws, weight=np.ones(2), offset=np.zeros(2)))
    wide: Row = {PREDICTED_TOKENS: 60}
    narrow: Row = {PREDICTED_TOKENS: 150, CATEGORY: 1}
    server = {BATCH_SIZE: 8}
    calm = order_of(policies.with_settings(policy, beta=0.0), observe([wide, narrow], server))
    assert calm == [0, 1]
    crowd: list[Row] = [{PREDICTED_TOKENS: 900, CATEGORY: 1}] * 60
    assert order_of(policy, observe([wide, narrow, *crowd], server))[:2] == [1, 0]
