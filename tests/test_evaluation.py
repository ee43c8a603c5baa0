"""Statistics against hand-worked numbers; runs that resume, repeat and share their workloads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laps_env.evaluation import runner, statistics
from laps_env.evaluation.grid import Grid
from laps_env.evaluation.recordings import Recordings
from laps_env.evaluation.runner import Evaluation, open_journal, rerun
from laps_env.utils.journal import Journal
from laps_env.workloads import Workload
from laps_env.workloads.acceptance import ChainProfile
from laps_env.workloads.chain_fill import chain_fill, state_alphas
from laps_env.workloads.scenarios import get_scenario

GRID = Grid(
    policies=("fcfs", "laps_sd_tuned", "gittins_tuned", "laps_sd+smartspec"),
    scenarios=("code-serial-8b", "math-batch8-8b"),
    loads=(0.9,),
    episodes=3,
    num_requests=40,
)


def run(grid: Grid, journal: Journal | None = None, jobs: int = 2) -> dict[str, Any]:
    evaluation = Evaluation(grid, journal)
    evaluation.run(jobs)
    return evaluation.results()


def test_statistics_are_the_hand_worked_ones() -> None:
    policy, base = np.array([1.0, 2.0, 6.0]), np.array([2.0, 2.0, 4.0])
    ratio, interval = statistics.ratio_with_interval(policy, base)
    assert ratio == 9 / 8  # of sums, not the mean of .5, 1, 1.5
    assert interval == (0.5, 1.5)  # 1/27 of the resamples are three times the same workload
    # 8 values: two are cut from either end
    assert statistics.iqm_with_interval(np.array([9.0, 1, 2, 3, 4, 5, 6, -50]))[0] == 3.5
    assert statistics.mean_with_interval(np.full(4, 7.0)) == (7.0, (7.0, 7.0))
    assert statistics.mean_with_interval(np.array([7.0])) == (7.0, None)
    with pytest.raises(ValueError, match="same workloads"):
        statistics.ratio_with_interval(policy, base[:2])


def test_seeds_of_training_are_resampled_too() -> None:
    base = np.array([2.0, 2.0, 4.0])
    values = np.array([[1.0, 2.0, 6.0], [3.0, 2.0, 4.0]])  # ratios 9/8 and 9/8
    ratio, interval = statistics.nested_ratio_with_interval(values, base)
    assert ratio == 9 / 8
    assert interval is not None
    assert 0.5 < interval[0] < 9 / 8 < interval[1] < 1.5  # these need luck with seed and workloads
    same = np.outer([0.8, 1.0, 1.2], base)  # workloads agree, seeds do not
    ratio, interval = statistics.nested_ratio_with_interval(same, base)
    assert ratio == pytest.approx(1.0)
    assert interval == pytest.approx((0.8, 1.2))  # 1/27 of the resamples have one seed alone
    assert statistics.nested_ratio_with_interval(values[:1], base)[1] is None
    with pytest.raises(ValueError, match="same workloads"):
        statistics.nested_ratio_with_interval(values, base[:2])


def test_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).normal(3.0, 1.0, (300, 20))
    intervals = [statistics.mean_with_interval(row)[1] for row in draws]
    covered = np.mean([i is not None and i[0] <= 3.0 <= i[1] for i in intervals])
    assert 0.88 <= covered <= 0.97  # the percentile bootstrap of 20 values is a little short


def test_gap_is_closed_in_shares_of_the_oracles_lead() -> None:
    laps, oracle = np.array([10.0, 12.0, 14.0]), np.array([6.0, 7.0, 8.0])
    assert statistics.gap_closed(np.array([8.0, 9.0, 14.0]), laps, oracle) == pytest.approx(1 / 3)
    assert statistics.gap_closed(laps, laps, oracle) == 0.0
    assert statistics.gap_closed(oracle, laps, oracle) == 1.0


@pytest.mark.parametrize(
    "oracle",
    [[9.8, 11.8, 13.8], [1.0, 12.0, 15.0], [11.0, 13.0, 15.0]],
    ids=["lead under 3 %", "lead within its noise", "no lead"],
)
def test_gap_is_not_available_where_it_would_be_noise(oracle: list[float]) -> None:
    laps = np.array([10.0, 12.0, 14.0])
    assert statistics.gap_closed(laps * 0.9, laps, np.array(oracle)) is None


def test_rows_hold_what_the_workloads_gave() -> None:
    results = run(GRID)
    assert (results["format"], results["version"]) == ("laps-env-results", 1)
    asked = [(s, p) for s in GRID.scenarios for p in GRID.policies]
    assert [(row["scenario"], row["policy"]) for row in results["rows"]] == asked
    by_policy = {row["policy"]: row for row in results["rows"][:4]}
    base = by_policy["laps_sd_tuned"]
    assert base["ratio_to_reference"] == 1.0
    assert base["ratio_ci95"] == (1.0, 1.0)
    fcfs = by_policy["fcfs"]
    summed = sum(fcfs["episode_mean_latency_s"]) / sum(base["episode_mean_latency_s"])
    assert fcfs["ratio_to_reference"] == pytest.approx(summed, rel=1e-12)
    assert fcfs["mean_latency_ci95"][0] < fcfs["mean_latency_s"] < fcfs["mean_latency_ci95"][1]
    assert fcfs["p50_latency_s"] < fcfs["p95_latency_s"] < fcfs["p99_latency_s"]


def test_an_interrupted_evaluation_resumes_to_the_same_rows(tmp_path: Path) -> None:
    unbroken = json.dumps(run(GRID)["rows"])
    path = tmp_path / "out.json.journal"
    units = 0

    def interrupt(runs: int) -> None:
        nonlocal units
        units += 1
        if units == 3:
            raise KeyboardInterrupt

    with open_journal(path, GRID) as journal:
        first = Evaluation(GRID, journal)
        with pytest.raises(KeyboardInterrupt):
            first.run(1, interrupt)
    finished = first.finished_runs
    assert 3 * 5 <= finished < first.total_runs == 6 * 5
    with path.open("ab") as file:  # and killed in the middle of a write
        file.write(b'{"key": "0123", "metr')

    journal = open_journal(path, GRID)
    second = Evaluation(GRID, journal)
    assert second.finished_runs == finished
    done: list[int] = []
    second.run(2, done.append)
    assert sum(done) == second.total_runs - finished
    assert json.dumps(second.results()["rows"]) == unbroken
    assert len(path.read_bytes().splitlines()) == 1 + second.total_runs
    journal.remove()
    assert not path.exists()


def test_a_damaged_journal_loses_its_damaged_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    grid = replace(GRID, scenarios=("code-serial-8b",), episodes=2)
    with open_journal(path, grid) as journal:
        unbroken = json.dumps(run(grid, journal)["rows"])
    head, *good = path.read_bytes().splitlines(keepends=True)
    key = json.loads(good[0])["key"]
    damaged = [
        good[1][:30] + b"\xff" + good[1][31:],
        b'{"key": "%s"}\n' % key.encode(),
        b'{"key": "%s", "metrics": {"mean_latency_s": NaN}}\n' % key.encode(),
        b'{"key": "%s", "metrics": {"mean_latency_s": 1%s}}\n' % (key.encode(), b"0" * 400),
        b'{"key": "%s", "metrics": {}}\n' % key.encode(),
        *(b"[1]\n", b"\n", b"[" * 100_000 + b"\n", b"\0" * 40 + b"\n", b"\0" * 40),
        good[-1][:-1],
    ]
    path.write_bytes(b"".join([head, *good[2:-1], *damaged]))
    with open_journal(path, grid) as journal:
        assert path.read_bytes() == b"".join([head, *good[2:-1]])
        assert json.dumps(run(grid, journal)["rows"]) == unbroken
    path.write_bytes(b"".join([head, good[0], damaged[0], *good[2:]]))
    with pytest.raises(ValueError, match="journal: line 3: expected a finished part, got a dam"):
        open_journal(path, grid)


def test_a_journal_of_another_grid_or_code_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, path = replace(GRID, scenarios=("code-serial-8b",), episodes=2), tmp_path / "journal"
    with open_journal(path, grid) as journal:
        run(grid, journal)
    before = path.read_bytes()
    for other in (replace(grid, loads=(0.8,)), replace(grid, predictor_error=0.4)):
        with pytest.raises(ValueError, match=r"journal: expected a journal of .* remove it to"):
            open_journal(path, other)
    path.write_text("something else")
    with pytest.raises(ValueError, match="journal: expected a journal of"):
        open_journal(path, grid)
    assert path.read_text() == "something else"
    path.write_bytes(before)
    monkeypatch.setattr(runner, "CODE", "another")
    with open_journal(path, grid) as journal:
        assert Evaluation(grid, journal).finished_runs == 0


def test_a_journal_is_open_once_and_takes_entries_from_threads(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, {"job": "test"}) as journal:
        with pytest.raises(ValueError, match="journal: expected one that nobody writes to"):
            Journal(path, {"job": "test"})
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda k: journal.add({"part": k}), range(500)))
        with pytest.raises(ValueError, match="not JSON compliant"):
            journal.add({"part": float("nan")})
    with Journal(path, {"job": "test"}) as again:
        assert sorted(entry["part"] for entry in again.entries) == list(range(500))
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_is_repeated_bit_for_bit_from_its_row() -> None:
    for row in json.loads(json.dumps(run(GRID), allow_nan=False))["rows"]:
        again = [rerun(row, i)["mean_latency_s"] for i in range(GRID.episodes)]
        assert again == row["episode_mean_latency_s"], row["policy"]


def test_policies_meet_the_same_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    met: dict[str, list[Workload]] = {}
    evaluate_episode = runner.evaluate_episode

    def watched(policy: Any, workload: Workload, *args: Any, **kwargs: Any) -> Any:
        met.setdefault(policy.name, []).append(workload)
        return evaluate_episode(policy, workload, *args, **kwargs)

    monkeypatch.setattr(runner, "evaluate_episode", watched)
    run(replace(GRID, policies=("fcfs",)), jobs=1)
    run(replace(GRID, policies=("random", "gittins_tuned")), jobs=1)
    assert len(met["fcfs"]) == 6
    for other in ("random", "gittins_tuned"):
        assert all(a.equals(b) for a, b in zip(met["fcfs"], met[other], strict=True))
    assert not met["fcfs"][0].equals(met["fcfs"][1])


def test_chain_fill_follows_the_fitted_chain() -> None:
    profile = ChainProfile(5, 0.5, 0, 0, 0, 0.7, 0.1, 0.3, 4, 0.5)
    low, high = state_alphas(profile, 0.6)
    # the long-run alpha, accepted / trials over natural rounds, is the one asked for
    trials = 0.25 / (1 - high) + 0.75 / (1 - low)
    assert 1 - 1 / trials == pytest.approx(0.6)
    rng = np.random.default_rng(0)
    fresh = chain_fill({"x": profile}, accepted_before=0)(rng, "x", 0.6, 40_000)
    assert fresh.mean() == pytest.approx(0.25 * high + 0.75 * low, abs=0.01)
    after = chain_fill({"x": profile}, accepted_before=4)(rng, "x", 0.6, 40_000)
    assert low < fresh.mean() < after.mean() < high
    correlation = np.corrcoef(fresh[:-1], fresh[1:])[0, 1]
    assert correlation > 0.03  # states last, so neighbouring bits are alike
    with pytest.raises(ValueError, match="expected one of x; got 'y'"):
        chain_fill({"x": profile})(rng, "y", 0.6, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policies": ()}, "policies: expected at least one"),
        ({"scenarios": ("chat",)}, "scenario: expected one of chat-serial-135m.*got 'chat'"),
        ({"loads": (float("nan"),)}, "load: expected a finite number > 0, got nan"),
        ({"loads": ("recorded",)}, "expected an arrival trace, got none"),
        ({"episodes": 0}, "episodes: expected an integer >= 1, got 0"),
        ({"slots": 4}, "slots: expected at least the batch size of math-batch8-8b, 8; got 4"),
        ({"first_seed": -1}, "seed: expected an integer >= 0, got -1"),
        ({"split": "test"}, "split: expected one of .*got 'test'"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(GRID, **change)


def test_recorded_traffic_is_evaluated_and_repeated(shared_data: Path, tmp_path: Path) -> None:
    # a copy of the arrivals, to be changed afterwards
    arrivals = tmp_path / "arrivals.csv"
    original = shared_data / "arrivals" / "AzureLLMInferenceTrace_conv.csv"
    arrivals.write_bytes(original.read_bytes())
    grid = replace(
        GRID,
        policies=("fcfs", "gittins_tuned"),
        scenarios=("specbench-serial-7b",),
        loads=(0.9, "recorded"),
        episodes=2,
        recordings=Recordings(
            acceptance_trace=str(shared_data / "acceptance" / "vicuna7b_vicuna68m_rounds.jsonl.gz"),
            arrival_trace=str(arrivals),
        ),
    )
    rows = json.loads(json.dumps(run(grid)["rows"], allow_nan=False))
    source = rows[0]["source"]
    assert source["acceptance"] == "recorded vicuna7b_vicuna68m_rounds.jsonl.gz"
    assert source["prompt_lengths"] == "drawn from generator vicuna-7b+68m (not recorded)"
    assert source["arrivals"] == "recorded arrivals.csv, its second half"
    assert 0.3 < source["filled_share"] < 0.6
    for row in rows:
        assert rerun(row, 1)["mean_latency_s"] == row["episode_mean_latency_s"][1]
    with arrivals.open("a") as file:
        file.write("2023-11-16 19:30:00.0000000,10,10\n")
    with pytest.raises(ValueError, match=r"expected sha256 .*, got"):
        rerun(rows[0], 0)


def test_lengths_of_the_arrivals_drive_the_generator(shared_data: Path) -> None:
    arrivals = str(shared_data / "arrivals" / "AzureLLMInferenceTrace_code.csv")
    recordings = Recordings(arrival_trace=arrivals, lengths="arrivals")
    grid = replace(GRID, policies=("fcfs",), scenarios=("code-serial-8b",), recordings=recordings)
    (row,) = run(grid)["rows"]
    assert row["source"]["output_lengths"].startswith("recorded AzureLLMInferenceTrace_code.csv")
    assert row["source"]["acceptance"] == "generator llama-3.1-8b+eagle-3"
    assert row["saturation_rps"] != get_scenario("code-serial-8b").saturation_rps  # measured anew
