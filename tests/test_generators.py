"""What a workload is drawn from: arrivals, predictions and the fitted acceptance."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from laps_env.traces.arrival_trace import ArrivalTrace
from laps_env.utils.splits import Split
from laps_env.workloads import Workload
from laps_env.workloads.arrivals import (
    AllAtOnce,
    ArrivalProcess,
    GammaGaps,
    ModulatedPoisson,
    Poisson,
    RecordedArrivals,
)
from laps_env.workloads.predictors import BucketPredictor, LogNormalPredictor
from laps_env.workloads.random import make_key
from laps_env.workloads.scenario_file import make_arrivals
from laps_env.workloads.scenarios import get_scenario

BUCKETS = BucketPredictor((1, 64, 128, 256, 512, 1024, 4096), accuracy=0.8)


def ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def spearman(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


# -- arrivals -------------------------------------------------------------------------------------

MANY = 200_000


def gaps_of(process: ArrivalProcess, seed: int = 0, count: int = MANY) -> npt.NDArray[np.float64]:
    return process.gaps(make_key(Split.TRAIN, seed), 0, count, Split.TRAIN)


@pytest.mark.parametrize(
    ("process", "cv"), [(Poisson(), 1.0), *((GammaGaps(cv), cv) for cv in (0.3, 1.0, 2.5, 13.0))]
)
def test_gaps_have_mean_1_and_the_cv_they_claim(process: ArrivalProcess, cv: float) -> None:
    gaps = gaps_of(process)
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1.0, abs=5 * cv / np.sqrt(MANY))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.02 if cv < 5 else 0.1)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.01


def test_modulated_poisson_has_the_dispersion_of_its_theory() -> None:
    """Variance / mean of the counts in windows (Fischer and Meier-Hellstern 1993)."""
    process = ModulatedPoisson(burst_rate=5.0, burst_share=0.1, burst_length=50.0)
    calm_rate = (1 - 0.5) / 0.9
    switching = 1 / 50 + 1 / 450
    window = 100.0
    decay = 1 - (1 - np.exp(-switching * window)) / (switching * window)
    expected = 1 + 2 * (5.0 - calm_rate) ** 2 * 0.1 * 0.9 / switching * decay
    counts = []
    for seed in range(3):
        arrivals = np.cumsum(gaps_of(process, seed))
        assert arrivals[-1] / MANY == pytest.approx(1.0, abs=0.12)
        edges = np.arange(0, arrivals[-1], window)
        counts.append(np.histogram(arrivals, edges)[0])
    dispersion = np.concatenate(counts).var() / np.concatenate(counts).mean()
    assert dispersion == pytest.approx(expected, rel=0.15)
    assert gaps_of(process).std() > 1.2
    # one short workload in ten begins in a burst
    first = [gaps_of(process, seed, 20).mean() for seed in range(400)]
    assert 0.04 < np.mean(np.array(first) < 0.4) < 0.18


def test_all_at_once() -> None:
    scenario = get_scenario("chat-serial-8b").with_arrivals(AllAtOnce())
    assert not scenario.workload(load=0.9, num_requests=9).arrival_ns.any()


def test_recorded_arrivals_keep_their_pattern_and_their_halves() -> None:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.integers(0, 10**9, 100))
    trace = ArrivalTrace(times, np.arange(1, 101), np.arange(101, 201), "recorded")
    recorded = RecordedArrivals(trace)
    for seed, (tag, first) in enumerate((("train", 0), ("validation", 0), ("test", 50))):
        key, split = make_key(Split(tag), seed), Split(tag)
        rows = recorded.rows(key, 0, 120, split)
        assert set(rows) == set(range(first, first + 50))
        assert (np.diff(rows)[np.diff(rows) != 1] == -49).all()
        gaps = recorded.gaps(key, 0, 120, split)
        mean = recorded.mean_gap_s(split)
        assert mean == pytest.approx((times[first + 49] - times[first]) / 49 * 1e-9)
        inner = rows > first
        expected = (times[rows] - times[rows - 1])[inner] * 1e-9
        np.testing.assert_allclose(gaps[inner] * mean, expected)
        assert (gaps[~inner] == 1).all()
        assert gaps[:50].mean() == pytest.approx(1.0)
    scenario = get_scenario("chat-serial-8b").with_arrivals(trace)
    assert scenario.arrivals == recorded
    played = scenario.workload(load="recorded", num_requests=30, seed=4)
    rows = recorded.rows(make_key(Split.TRAIN, 4), 0, 30, Split.TRAIN)
    inner = rows[1:] > 0
    np.testing.assert_allclose(
        np.diff(played.arrival_ns)[inner], (times[rows[1:]] - times[rows[:-1]])[inner], atol=1
    )
    lengths = scenario.with_lengths_of(recorded)
    assert lengths.saturation_rps == {}  # must be measured anew
    drawn = lengths.requests.draw(make_key(Split.TRAIN, 4), 0, 30, Split.TRAIN)
    np.testing.assert_array_equal(drawn.prompt_tokens, trace.prompt_tokens[rows])
    np.testing.assert_array_equal(drawn.output_tokens, trace.output_tokens[rows])


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        ([0, 1, 2], "expected at least 4 arrivals, got 3"),
        ([0, 0, 0, 0], "got 4 of which the first half came at one instant"),
        ([0, 1, 5, 5, 5], "got 5 of which the second half came at one instant"),
    ],
)
def test_recorded_arrivals_of_which_a_half_has_no_gaps(seconds: list[int], message: str) -> None:
    ones = np.ones(len(seconds), np.int64)
    trace = ArrivalTrace(np.array(seconds) * 10**9, ones, ones, source="made up")
    with pytest.raises(ValueError, match=f"made up: .*{message}"):
        RecordedArrivals(trace)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"kind": "comet"}, ValueError, r"arrivals.kind: expected one of poisson, .*; got 'comet'"),
        ({"kind": "gamma", "cv": 0.0}, ValueError, "cv: expected a finite number > 0, got 0.0"),
        ({"kind": "gamma", "cv": np.inf}, ValueError, "cv: expected a finite number > 0, got inf"),
        ({"kind": "gamma"}, ValueError, "arrivals: expected cv, got"),
        (
            {
                "kind": "modulated_poisson",
                "burst_rate": 5,
                "burst_share": 0.2,
                "burst_length": 9,
            },
            ValueError,
            r"burst_rate \* burst_share < 1",
        ),
    ],
)
def test_bad_arrivals(spec: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_arrivals(spec)


# -- predictions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sd", [0.0, 0.2, 1.0])
def test_the_lognormal_predictor_is_as_good_as_it_says(sd: float) -> None:
    lengths = np.random.default_rng(0).integers(1, 2000, 20_000)
    predicted = LogNormalPredictor(sd).predict(make_key(Split.TRAIN, 0), 0, lengths)
    error = np.log(predicted / lengths)
    assert error.mean() == pytest.approx(0, abs=4 * sd / np.sqrt(lengths.size) + 1e-12)
    assert error.std() == pytest.approx(sd, rel=0.03, abs=1e-12)
    if sd:
        assert abs(np.corrcoef(error, lengths)[0, 1]) < 0.03


@pytest.mark.parametrize("accuracy", [0.0, 0.8, 1.0])
def test_the_bucket_predictor_is_as_good_as_it_says(accuracy: float) -> None:
    predictor = BucketPredictor(BUCKETS.edges, accuracy)
    edges = np.array(predictor.edges)
    lengths = np.random.default_rng(0).integers(1, 5000, 20_000)
    predicted = predictor.predict(make_key(Split.TRAIN, 0), 0, lengths)
    middles = np.sqrt(edges[:-1] * edges[1:])
    right = np.clip(np.digitize(lengths, edges) - 1, 0, middles.size - 1)
    said = np.argmin(np.abs(np.log(predicted)[:, None] - np.log(middles)), axis=1)
    np.testing.assert_allclose(predicted, middles[said])
    assert (said == right).mean() == pytest.approx(accuracy, abs=0.012)
    assert (np.abs(said - right) <= 1).all()
    wrong = (said != right) & (right > 0) & (right < middles.size - 1)
    if wrong.any():
        assert (said > right)[wrong].mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogNormalPredictor(np.nan), "expected a finite number >= 0, got nan"),
        (lambda: BucketPredictor((1,), 0.5), "edges: expected >= 2 increasing numbers >= 1"),
        (lambda: BucketPredictor((1, 9, 9), 0.5), "edges: expected >= 2 increasing"),
        (lambda: BucketPredictor((0, 9), 0.5), "edges: expected >= 2 increasing"),
        (lambda: BucketPredictor((1, 9), 1.5), r"accuracy: expected 0\.\.1, got 1\.5"),
    ],
)
def test_bad_predictors(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# -- the fitted generator -------------------------------------------------------------------------


def natural_rounds(workload: Workload) -> list[npt.NDArray[np.int64]]:
    """Runs of every request's rounds under an unlimited draft, the last (cut) one left out."""
    rounds = []
    for start, end in zip(workload.offset[:-1], workload.offset[1:], strict=True):
        runs, position = [], start
        while position + workload.accepted_length[position] + 1 < end:
            runs.append(int(workload.accepted_length[position]))
            position += runs[-1] + 1
        rounds.append(np.array(runs, np.int64))
    return rounds


def alphas(workload: Workload) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Per-request share of accepted draft tokens among those decided, and output lengths."""
    rounds = [(runs, i) for i, runs in enumerate(natural_rounds(workload)) if runs.size >= 3]
    alpha = np.array([runs.sum() / (runs.sum() + runs.size) for runs, _ in rounds])
    return alpha, workload.output_tokens[[i for _, i in rounds]]


@pytest.mark.parametrize(
    ("scenario", "percentiles"),
    [
        ("specbench-serial-7b", [0.28, 0.58, 0.81]),  # recorded: vicuna-7b + 68m on Spec-Bench
        ("mixed-serial-8b", [0.53, 0.67, 0.83]),  # recorded: Llama-3.1-8B + EAGLE-3
    ],
)
def test_the_generator_has_the_recorded_spread_of_alpha(
    scenario: str, percentiles: list[float]
) -> None:
    alpha, _ = alphas(get_scenario(scenario).workload(load=0.9, num_requests=4000))
    np.testing.assert_allclose(np.percentile(alpha, [5, 50, 95]), percentiles, atol=0.05)


@pytest.mark.parametrize("scenario", ["specbench-serial-7b", "chat-serial-8b"])
def test_longer_answers_are_easier_to_draft(scenario: str) -> None:
    """Recorded: Spearman +.2 to +.5 (there the draft length cut the rounds, here nothing does)."""
    workload = get_scenario(scenario).workload(load=0.9, num_requests=4000)
    assert 0.2 < spearman(*alphas(workload)) < 0.55


def test_rounds_of_the_generator_have_the_recorded_autocorrelation() -> None:
    """Weak but lasting (.17 .14 .11 .12 .10 for EAGLE-3): not a rate per request and noise."""
    workload = get_scenario("mixed-serial-8b").workload(load=0.9, num_requests=2000)
    kept = [runs - runs.mean() for runs in natural_rounds(workload) if runs.size >= 40]
    variance = np.concatenate(kept).var()
    lags = [np.concatenate([c[:-k] * c[k:] for c in kept]).mean() / variance for k in (1, 3, 5)]
    assert 0.05 < lags[2] <= lags[1] <= lags[0] < 0.25


def test_lengths_of_the_generator_have_their_profiles() -> None:
    scenario = get_scenario("specbench-serial-7b")
    workload = scenario.workload(load=0.9, num_requests=4000)
    for k, profile in enumerate(scenario.requests.profiles.values()):  # type: ignore[attr-defined]
        logs = np.log(workload.output_tokens[workload.category == k])
        assert logs.mean() == pytest.approx(profile.log_mean, abs=0.12)
        assert logs.std() == pytest.approx(profile.log_sd, rel=0.1)
        assert logs.size == pytest.approx(4000 / 6, rel=0.15)
