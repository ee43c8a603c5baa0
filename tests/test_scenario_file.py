"""A scenario as a file: what it may say, what is refused, and that results need nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laps_env.evaluation.check import check_results
from laps_env.evaluation.grid import Grid
from laps_env.evaluation.results import Results, read_results, write_results
from laps_env.evaluation.runner import Evaluation
from laps_env.report.leaderboard import leaderboard, leaderboard_table
from laps_env.report.tables import results_text
from laps_env.report.timeline import record_row
from laps_env.report.write import write_report
from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.joined import joined
from laps_env.traces.schema import TraceError
from laps_env.workloads.scenario_file import named_scenario, read_scenario, restored
from laps_env.workloads.scenarios import get_scenario, list_scenarios

CONSTANTS = """
overhead_ns = 1e6
target_pass_ns = 20e6
target_token_ns = 30e3
target_kv_token_ns = 50
draft_step_ns = 1.5e6
draft_token_ns = 2e3
prefill_request_ns = 0
swap_token_ns = 5e3
"""
MINE = f"""
description = "two days of chat and code"
predictor_error = 0.3

[server]
batch_size = 4
draft_length = [4, 3, 2]
pool_tokens = 50_000

[costs]
{CONSTANTS}
[requests]
trace = ["a.safetensors", "b.safetensors"]

[arrivals]
log = "log.csv"
unit = "ms"

[limits.chat]
ttft_s = 0.5
"""
GENERATED = MINE.replace(
    'trace = ["a.safetensors", "b.safetensors"]',
    'family = "llama-3.1-8b+eagle-3"\nmix = { chat = 1, code = 3 }',
)


def trace(categories: tuple[str, ...], requests: int, **changes: Any) -> AcceptanceTrace:
    """Requests of 5 to 8 tokens, a category after the other."""
    tokens = 5 + np.arange(requests) % 4
    made = AcceptanceTrace(
        accepted_length=(np.arange(tokens.sum()) % 3).astype(np.uint8),
        offset=np.concatenate([[0], np.cumsum(tokens)]),
        output_tokens=tokens,
        prompt_tokens=np.full(requests, 10),
        category=np.arange(requests) % len(categories),
        categories=categories,
        info=TraceInfo(drafter="eagle", target_model="big"),
    )
    return replace(made, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a scenario's file and what it names."""
    trace(("chat", "code"), 20).save(tmp_path / "a.safetensors")
    trace(("code", "math"), 12).save(tmp_path / "b.safetensors")
    lines = "".join(f"{40 * i},10,{5 + i % 4}\n" for i in range(60))
    (tmp_path / "log.csv").write_text("Timestamp,Request tokens,Response tokens\n" + lines)
    (tmp_path / "mine.toml").write_text(MINE)
    return tmp_path


def evaluated(folder: Path) -> Results:
    """Results on the file's scenario, as their file has them."""
    scenarios, loads = (str(folder / "mine.toml"),), ("recorded", 0.8)
    grid = Grid(("fcfs", "sjf"), scenarios, loads, episodes=2, num_requests=30)
    evaluation = Evaluation(grid)
    evaluation.run(jobs=1)
    write_results(evaluation.results(), folder / "results.json")
    return read_results(folder / "results.json")


def test_a_file_says_all_that_a_scenario_is(folder: Path) -> None:
    scenario = read_scenario(folder / "mine.toml")
    assert scenario.name == "mine"
    assert scenario.server.draft_length == (4, 3, 2)
    assert scenario.server.cost.target_pass_ns == 20e6
    assert scenario.requests.categories == ("chat", "code", "math")
    assert scenario.requests.name == "recorded a.safetensors, b.safetensors"
    assert scenario.mean_gap_s("recorded", "test") == pytest.approx(0.04)
    assert scenario.limits["chat"].ttft_s == 0.5
    assert scenario.error_in_force(None) == 0.3
    measured = scenario.with_saturation().saturation_rps
    assert scenario.saturation_rps == measured
    table = "".join(f"{split} = {rate!r}\n" for split, rate in measured.items())
    (folder / "mine.toml").write_text(f"{MINE}\n[saturation_rps]\n{table}")
    assert read_scenario(folder / "mine.toml").digest == scenario.digest


def test_results_need_nothing_beside_them(folder: Path, tmp_path: Path) -> None:
    results = evaluated(folder)
    for name in ("mine.toml", "a.safetensors", "b.safetensors", "log.csv"):
        (folder / name).unlink()
    assert all(check.holds for check in check_results(folder / "results.json", 100))
    timeline = record_row(results, results.find("mine", "recorded", "sjf"), 0)
    assert len(timeline.requests) == 30
    for text in (results_text(results), leaderboard_table(leaderboard([results]))):
        assert "mine, load" in text
    write_report(results, tmp_path / "report")
    assert (tmp_path / "report" / "timelines" / "mine.html").exists()


def test_a_definition_that_was_changed_no_longer_fits_its_rows(folder: Path) -> None:
    results = evaluated(folder)
    known = results.definitions["mine"]
    changed = replace(known, text=known.text.replace("batch_size = 4", "batch_size = 3"))
    write_results(replace(results, definitions={"mine": changed}), folder / "changed.json")
    with pytest.raises(ValueError, match="scenario mine has changed: expected digest"):
        list(check_results(folder / "changed.json", 1))
    for files, message in (
        (known.files[1:], "file: expected one of .*; got 'log.csv'"),
        (((known.files[0][0], b"x"), *known.files[1:]), "expected it gzip-compressed"),
    ):
        with pytest.raises(ValueError, match=message):
            restored(replace(known, files=files))


@pytest.mark.parametrize("name", list_scenarios())
def test_a_scenario_of_the_package_is_such_a_file(name: str) -> None:
    assert get_scenario(name) is named_scenario(name)
    assert get_scenario(name).definition is None


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (MINE, "[server]", "[server", "at line"),
        (MINE, "[server]", "[sever]", "sever: expected no such member"),
        (MINE, "description =", 'name = "demo"\ndescription =', "name: expected one of its own"),
        (MINE, "batch_size = 4", "batch_size = 0", "server: batch_size: expected an integer >= 1"),
        (MINE, "pool_tokens", "pool", "member of server: expected one of .*; got 'pool'"),
        (MINE, "overhead_ns", "overhead", "member of costs: expected one of"),
        (MINE, "overhead_ns = 1e6", "", "costs: expected overhead_ns, got"),
        (MINE, CONSTANTS, '\nname = "h9000"\n', "cost: expected one of .*; got 'h9000'"),
        (MINE, "trace =", 'family = "x"\ntrace =', "expected one of recording, trace"),
        (MINE, "trace =", "longest_tokens = 5\ntrace =", "longest_tokens: expected none beside"),
        (MINE, '"a.s', '"c.s', "No such file"),
        (MINE, '"b.s', '"a.s', "requests.trace: expected each file once"),
        (
            MINE,
            "[arrivals]",
            "mix = { chat = 1, tea = 2 }\n[arrivals]",
            "categories: expected some",
        ),
        (MINE, "[arrivals]", "mix = {}\n[arrivals]", "weights: expected"),
        (MINE, "batch_size = 4", "cost = 5", "server.cost: expected none"),
        (MINE, "overhead_ns = 1e6", "source = 5", "costs.source: expected a text"),
        (GENERATED, "mix =", "longest_tokens = 0\nmix =", "requests.longest_tokens: expected"),
        (MINE, 'unit = "ms"', 'unit = "h"', "arrivals.unit: expected"),
        (MINE, 'log = "log.csv"\nunit = "ms"', 'kind = "weekly"', "arrivals.kind: expected one of"),
        (MINE, 'log = "log.csv"\nunit = "ms"', 'kind = "gamma"', "arrivals: expected cv"),
        (MINE, "limits.chat", "limits.news", "limits: expected categories of chat, code, math"),
        (MINE, "= 0.3", '= "recorded"', "predictor_error: expected a number"),
        (MINE, "= 0.3", "= -1.0", "predictor_error: expected a finite number >= 0"),
        (GENERATED, "llama-3.1", "llama-9", "requests.family: expected one of"),
        (GENERATED, "chat = 1", "tea = 1", "requests.mix: expected one of"),
        (GENERATED, "chat = 1", "chat = -1", "weights: expected 2 numbers > 0"),
        (
            GENERATED.replace('log = "log.csv"\nunit = "ms"', 'kind = "poisson"'),
            "mix =",
            'lengths = "arrivals"\nmix =',
            "requests.lengths: expected a log of arrivals",
        ),
    ],
)
def test_what_is_wrong_is_named(folder: Path, text: str, old: str, new: str, message: str) -> None:
    changed = text.replace(old, new, 1)
    assert changed != text
    path = folder / "mine.toml"
    path.write_text(changed)
    with pytest.raises((ValueError, OSError), match=message):
        read_scenario(path)


def test_traces_of_several_files_are_one() -> None:
    first, second = trace(("chat", "code"), 3, group=np.array([0, 0, 7])), trace(("code",), 2)
    whole = joined([first, second])
    assert whole.categories == ("chat", "code")
    assert whole.category.tolist() == [0, 1, 0, 1, 1]
    assert whole.output_tokens.tolist() == [5, 6, 7, 5, 6]
    assert whole.offset.tolist() == [0, 5, 11, 18, 23, 29]
    assert whole.group is not None
    assert whole.group.tolist() == [0, 0, 1, 2, 3]
    np.testing.assert_array_equal(
        whole.accepted_length, np.concatenate([first.accepted_length, second.accepted_length])
    )
    other = replace(second, info=TraceInfo(drafter="eagle", target_model="small"))
    with pytest.raises(TraceError, match=r"info.target_model: expected 'big' .* got 'small'"):
        joined([first, other])
