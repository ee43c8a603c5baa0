"""Statistics against hand-worked numbers; runs that resume, repeat and share their workloads."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laps_env.evaluation import replay, runner, statistics
from laps_env.evaluation.grid import Grid
from laps_env.evaluation.recordings import Recordings
from laps_env.evaluation.replay import rerun
from laps_env.evaluation.results import Results, read_results, write_results
from laps_env.evaluation.runner import Evaluation, open_journal
from laps_env.policies import Policy
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


def run(grid: Grid, journal: Journal | None = None, jobs: int = 2) -> Results:
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
    rows = run(GRID).rows
    assert [(row.scenario, row.policy) for row in rows] == [
        (scenario, policy) for scenario in GRID.scenarios for policy in GRID.policies
    ]
    by_policy = {row.policy: row for row in rows[:4]}
    base, fcfs = by_policy["laps_sd_tuned"], by_policy["fcfs"]
    assert base.ratio_to_reference == 1.0
    assert base.ratio_ci95 == (1.0, 1.0)
    summed = sum(fcfs.episode_mean_latency_s) / sum(base.episode_mean_latency_s)
    assert fcfs.ratio_to_reference == pytest.approx(summed, rel=1e-12)
    assert fcfs.mean_latency_ci95 is not None
    assert fcfs.mean_latency_ci95[0] < fcfs.mean_latency_s < fcfs.mean_latency_ci95[1]
    assert fcfs.p50_latency_s < fcfs.p95_latency_s < fcfs.p99_latency_s


def test_the_reference_is_listed_and_what_ratios_are_relative_to() -> None:
    grid = replace(GRID, policies=("las",), reference="fcfs", scenarios=("code-serial-8b",))
    las, fcfs = run(grid).rows
    assert (las.policy, fcfs.policy) == ("las", "fcfs")
    assert {las.reference, fcfs.reference} == {"fcfs"}
    assert fcfs.ratio_to_reference == 1.0
    assert las.ratio_to_reference == pytest.approx(las.mean_latency_s / fcfs.mean_latency_s)


def test_a_file_has_all_rows_in_full_precision(tmp_path: Path) -> None:
    results, path = run(GRID), tmp_path / "results.json"
    write_results(results, path)
    document = json.loads(path.read_text())
    assert (document["format"], document["version"]) == ("laps-env results", 2)
    assert read_results(path) == results


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("chat", 0.9, "fcfs"), "scenario: expected one of code-serial-8b; got chat"),
        (("code-serial-8b", 0.8, "fcfs"), "load: expected one of 0.9; got 0.8"),
        (("code-serial-8b", 0.9, "las"), "policy: expected one of fcfs, laps_sd_tuned; got las"),
    ],
)
def test_a_row_that_is_not_there_is_named(place: Any, message: str) -> None:
    results = run(replace(GRID, policies=("fcfs",), scenarios=("code-serial-8b",)))
    with pytest.raises(ValueError, match=message):
        results.find(*place)
    with pytest.raises(ValueError, match="seed: expected one of 0, 1, 2; got 3"):
        results.rows[0].episode_of(3)


def test_a_scenario_of_your_own_is_evaluated_under_its_name(tmp_path: Path) -> None:
    known = get_scenario("code-serial-8b")
    own = replace(known, name="mine", server=known.server.with_changes(draft_length=2))
    grid = replace(GRID, policies=("fcfs",), scenarios=("code-serial-8b", own))
    results, path = run(grid), tmp_path / "results.json"
    write_results(results, path)
    named, mine = (results.find(name, 0.9, "fcfs") for name in ("code-serial-8b", "mine"))
    assert mine.mean_latency_s != named.mean_latency_s
    read = read_results(path)
    with pytest.raises(ValueError, match=r"mine, load 0.9, fcfs: .*scenario: expected one of"):
        rerun(read, read.find("mine", 0.9, "fcfs"), 0)
    with pytest.raises(ValueError, match="expected different names, got 'code-serial-8b' twice"):
        replace(GRID, scenarios=("code-serial-8b", replace(own, name="code-serial-8b")))
    with pytest.raises(ValueError, match="expected a name of one line for each, got ''"):
        replace(GRID, scenarios=(replace(own, name=""),))


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_evaluation_resumes_to_the_same_rows(jobs: int, tmp_path: Path) -> None:
    unbroken = run(GRID).rows
    path = tmp_path / "out.json.journal"
    runs = 0

    def interrupt(one: int) -> None:
        nonlocal runs
        runs += one
        if runs == 13:
            raise KeyboardInterrupt

    with open_journal(path, GRID) as journal:
        first = Evaluation(GRID, journal)
        with pytest.raises(KeyboardInterrupt):
            first.run(jobs, interrupt)
    finished = first.finished_runs
    assert 13 <= finished < first.total_runs == 6 * 5
    with path.open("ab") as file:  # and killed in the middle of a write
        file.write(b'{"key": "0123", "metr')

    journal = open_journal(path, GRID)
    second = Evaluation(GRID, journal)
    assert second.finished_runs == finished
    done: list[int] = []
    second.run(2, done.append)
    assert sum(done) == second.total_runs - finished
    assert second.results().rows == unbroken
    assert len(path.read_bytes().splitlines()) == 1 + second.total_runs
    journal.remove()
    assert not path.exists()


def test_a_damaged_journal_loses_its_damaged_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    grid = replace(GRID, scenarios=("code-serial-8b",), episodes=2)
    with open_journal(path, grid) as journal:
        unbroken = run(grid, journal).rows
    head, *good = path.read_bytes().splitlines(keepends=True)
    key = json.loads(good[0])["key"]
    damaged = [
        good[1][:30] + b"\xff" + good[1][31:],
        b'{"key": "%s"}\n' % key.encode(),
        b'{"key": "%s", "metrics": {"mean_latency_s": NaN}}\n' % key.encode(),
        b'{"key": "%s", "metrics": {"mean_latency_s": 1%s}}\n' % (key.encode(), b"0" * 400),
        b'{"key": "%s", "metrics": {}}\n' % key.encode(),
        b'{"key": "%s", "metrics": {"mean_latency_s": 1}}\n' % key.encode(),
        *(b"[1]\n", b"\n", b"[" * 100_000 + b"\n", b"\0" * 40 + b"\n", b"\0" * 40),
        good[-1][:-1],
    ]
    path.write_bytes(b"".join([head, *good[2:-1], *damaged]))
    with open_journal(path, grid) as journal:
        assert path.read_bytes() == b"".join([head, *good[2:-1]])
        assert run(grid, journal).rows == unbroken
    path.write_bytes(b"".join([head, good[0], damaged[0], *good[2:]]))
    with pytest.raises(ValueError, match="journal: line 3: expected a finished part, got a dam"):
        open_journal(path, grid)


def test_a_run_is_taken_from_the_journal_where_all_that_decides_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, path = replace(GRID, scenarios=("code-serial-8b",), episodes=2), tmp_path / "journal"
    with open_journal(path, grid) as journal:
        evaluation = Evaluation(grid, journal)
        evaluation.run(2)
        assert Evaluation(replace(grid, loads=(0.8,)), journal).finished_runs == 0
        assert Evaluation(replace(grid, predictor_error=0.4), journal).finished_runs == 0
        same_error = replace(grid, predictor_error=0.5)  # that in force where none is named
        fewer = replace(grid, policies=("fcfs",), reference="fcfs", episodes=1)
        for again, runs in ((same_error, evaluation.total_runs), (fewer, 2)):
            assert Evaluation(again, journal).finished_runs == runs
        with monkeypatch.context() as changed:
            changed.setattr(runner, "SIMULATOR_VERSION", -1)
            assert Evaluation(grid, journal).finished_runs == 0
        with monkeypatch.context() as changed:
            before = {name: p.digest for name, p in evaluation._settings[0].policies.items()}
            digest = property(lambda policy: before[policy.name] + "0" * (policy.name == "fcfs"))
            changed.setattr(Policy, "digest", digest)
            assert Evaluation(grid, journal).finished_runs == evaluation.total_runs - grid.episodes
    before_edit = path.read_bytes()
    with pytest.raises(ValueError, match=r"journal: expected a journal of .* remove it to"):
        open_journal(path, replace(grid, loads=(0.8,)))
    assert path.read_bytes() == before_edit
    path.write_text("something else")
    with pytest.raises(ValueError, match="journal: expected a journal of"):
        open_journal(path, grid)
    assert path.read_text() == "something else"


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


def test_no_source_of_reports_or_commands_is_read_to_name_results() -> None:
    """So an edit there leaves results and journals as they are."""
    program = """
import sys
opened = []
sys.addaudithook(lambda event, of: event == "open" and opened.append(str(of[0])))
from laps_env.evaluation.runner import Evaluation, Grid
assert Evaluation(Grid(("fcfs",), ("code-serial-8b",), episodes=1)).finished_runs == 0
print([path for path in opened if "/report/" in path or "/cli/" in path])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (found.stdout.strip(), found.stderr) == ("[]", "")


def stored(results: Results, folder: Path) -> Results:
    """The results as a file has them."""
    write_results(results, folder / "results.json")
    return read_results(folder / "results.json")


def test_a_run_is_repeated_bit_for_bit_from_its_row(tmp_path: Path) -> None:
    results = stored(run(GRID), tmp_path)
    for row in results.rows:
        again = [rerun(results, row, i)["mean_latency_s"] for i in range(GRID.episodes)]
        assert again == row.episode_mean_latency_s, row.policy


def test_policies_meet_the_same_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    met: dict[str, list[Workload]] = {}
    evaluate_episode = replay.evaluate_episode

    def watched(policy: Any, workload: Workload, *args: Any, **kwargs: Any) -> Any:
        met.setdefault(policy.name, []).append(workload)
        return evaluate_episode(policy, workload, *args, **kwargs)

    monkeypatch.setattr(replay, "evaluate_episode", watched)
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
        ({"policies": "fcfs"}, "policies: expected a list, got 'fcfs'"),
        ({"policies": (["fcfs"],)}, r"policies: expected names, got \['fcfs'\]"),
        ({"loads": ([0.9],)}, r"load: expected a finite number > 0, got \[0.9\]"),
        ({"scenarios": ("chat",)}, "scenario: expected one of .*chat-serial-135m.*got 'chat'"),
        ({"loads": (float("nan"),)}, "load: expected a finite number > 0, got nan"),
        ({"loads": ("recorded",)}, "load 'recorded': expected recorded arrivals"),
        ({"episodes": 0}, "episodes: expected an integer >= 1, got 0"),
        ({"slots": 4}, "slots: expected at least the batch size of math-batch8-8b, 8; got 4"),
        ({"first_seed": -1}, "seed: expected an integer >= 0, got -1"),
        ({"split": "final"}, "split: expected one of .*got 'final'"),
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
    results = stored(run(grid), tmp_path)
    rows = results.rows
    source = rows[0].source
    assert source["acceptance"] == "recorded vicuna7b_vicuna68m_rounds.jsonl.gz"
    assert source["prompt_lengths"] == "drawn from generator vicuna-7b+68m (not recorded)"
    assert source["arrivals"] == "recorded arrivals.csv, its second half"
    assert rows[0].filled_share is not None
    assert 0.3 < rows[0].filled_share < 0.6
    for row in rows:
        assert rerun(results, row, 1)["mean_latency_s"] == row.episode_mean_latency_s[1]
    with arrivals.open("a") as file:
        file.write("2023-11-16 19:30:00.0000000,10,10\n")
    with pytest.raises(ValueError, match=r"recording .*arrivals.csv has changed: expected dig"):
        rerun(results, rows[0], 0)


def test_lengths_of_the_arrivals_drive_the_generator(shared_data: Path) -> None:
    arrivals = str(shared_data / "arrivals" / "AzureLLMInferenceTrace_code.csv")
    recordings = Recordings(arrival_trace=arrivals, lengths="arrivals")
    grid = replace(GRID, policies=("fcfs",), scenarios=("code-serial-8b",), recordings=recordings)
    row = run(grid).rows[0]
    assert row.source["output_lengths"].startswith("recorded AzureLLMInferenceTrace_code.csv")
    assert row.source["acceptance"] == "generator llama-3.1-8b+eagle-3"
    own = get_scenario("code-serial-8b").saturation("test")
    assert row.saturation_rps != own  # measured anew
