"""Predictions told anew while a request runs: by hand, from a trace, and as rules take them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from env_play import follow
from observed import observe
from test_rule_orders import LAWS, priority_of, with_laws
from test_traces import small_trace

import laps_env
from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.evaluation.grid import Grid
from laps_env.evaluation.replay import parts_of, rerun
from laps_env.evaluation.results import read_results, write_results
from laps_env.evaluation.runner import Evaluation
from laps_env.policies.base.traffic_file import fit_traffic, write_traffic
from laps_env.policies.base.traffic_model import LengthLaws
from laps_env.sim.costs import CostModel
from laps_env.sim.observation import (
    DRAFTED,
    GENERATED_TOKENS,
    PREDICTED_TOKENS,
    ROUNDS,
    VERIFY_S,
)
from laps_env.sim.server_model import ServerModel
from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.joined import joined
from laps_env.workloads import Workload
from laps_env.workloads.arrivals import Poisson
from laps_env.workloads.requests import RecordedRequests
from laps_env.workloads.scenarios import Scenario, get_scenario

SERIAL = "mixed-serial-8b"
#: A round takes a second and commits a token.
SECONDS = ServerModel(CostModel(0, 1e9, 0, 0, 0, 0, 0, 0), draft_length=0)


def workload(**changes: Any) -> Workload:
    """A of 5 tokens is said to have 9, until after 2 it is told 5; B of 4 comes after 1.5 s."""
    fields: dict[str, Any] = {
        "arrival_ns": np.array([0, 1_500_000_000]),
        "prompt_tokens": np.array([1, 1]),
        "output_tokens": np.array([5, 4]),
        "predicted_tokens": np.array([9.0, 4.0]),
        "category": np.array([0, 0]),
        "accepted_length": np.zeros(9, np.uint8),
        "refresh_every": 2,
        "refreshed_tokens": np.array([5.0, 5.0, 4.0]),  # A after 2 and 4, B after 2
    }
    return Workload(**fields | changes)


def completions(rule: str, requests: Workload) -> list[float]:
    """When A and B are finished, seconds."""
    simulation = serve(
        policies.make(rule), requests, replace(get_scenario(SERIAL), server=SECONDS), split="train"
    )
    done: list[float] = (simulation.requests()["completion_ns"] / 1e9).tolist()
    return done


@pytest.mark.parametrize("rule", ["sprpt", "trail", "srpt_bounce"])
def test_who_is_told_to_be_nearly_done_overtakes(rule: str) -> None:
    # At 2 s A has 9 - 2 = 7 tokens left as told at arrival and 3 as told now, B has 4.
    assert completions(rule, workload(refresh_every=0, refreshed_tokens=None)) == [9, 6]
    assert completions(rule, workload()) == [5, 9]


def test_the_column_shows_what_was_told_last() -> None:
    scenario = replace(get_scenario(SERIAL), server=SECONDS)
    env: Any = gym.make(laps_env.REPLAY_IDS[0], scenario=scenario, slots=2, num_requests=2)
    seen = []
    observation, _ = env.reset(options={"workload": workload(arrival_ns=np.zeros(2, np.int64))})
    for action in (0, 0, 0, 0, 1, 1, 1):
        seen.append(observation["queue"][:, PREDICTED_TOKENS].tolist())
        observation, *_ = env.step(action)
    told = [[9, 4], [9, 4], [5, 4], [5, 4], [5, 4]]
    assert seen[:5] == told
    assert observation["queue"][:, PREDICTED_TOKENS].tolist() == [5, 4]


def test_laps_sd_reads_it_when_it_turns_perceptible() -> None:
    """The estimate is of the column's value at that moment, and of later ones unless frozen."""
    for frozen, after in ((0, 40.0), (1, 90.0)):
        policy = policies.make("laps_sd", frozen=frozen, remaining=0, fewest_rounds=3)
        memory, times = np.zeros(policy.spec.cells), []
        for rounds, predicted in ((1, 50.0), (3, 90.0), (4, 40.0)):
            row = {PREDICTED_TOKENS: predicted, ROUNDS: rounds, DRAFTED: 4.0}
            observed = observe([row], {VERIFY_S: 1e-3})
            rule = policy.spec.rule.function
            times.append(rule(observed["queue"][0], observed["server"], policy.params, memory))
        assert times[1:] == pytest.approx([90e-3, after * 1e-3], rel=1e-5)


RESTS = replace(
    LAWS,
    refresh_every=32,
    rests=LengthLaws(
        weight=np.ones(2),
        offset=np.zeros(2),
        variance=np.array([0.02, 0.02]),
        misfit=np.zeros(2),
        heaviness=np.zeros(2),
        scale=np.sqrt([0.02, 0.02]),
    ),
)


def test_the_law_of_the_rest_is_taken_once_it_is_told() -> None:
    early = {PREDICTED_TOKENS: 200, GENERATED_TOKENS: 31, ROUNDS: 20}
    # 70 generated, the latest refresh after 64 of them: 36 were left then, 6 have come since
    late = {PREDICTED_TOKENS: 100, GENERATED_TOKENS: 70, ROUNDS: 35}
    for name in ("bayes_srpt", "gittins", "bayes_srpt_heavy", "gittins_heavy"):
        with_them, without = with_laws(name, RESTS), with_laws(name, LAWS)
        alike = [priority_of(policy, observe([early])) for policy in (with_them, without)]
        assert alike[0] == alike[1]
        rest = 36 * (math.exp(0.01) if "bayes" in name else 1.0) - 6
        found = priority_of(with_them, observe([late]))
        assert found == pytest.approx(rest / 2, rel=0.08 if "gittins" in name else 1e-3)


def test_what_overruns_counts_from_the_last_refresh() -> None:
    policy = policies.make("sprpt", overrun=0.5)
    memory = np.zeros(policy.spec.cells)
    for generated, predicted, left in ((10, 90, 80), (88, 90, 44), (90, 92, 2), (100, 92, 5)):
        row = {PREDICTED_TOKENS: predicted, GENERATED_TOKENS: generated}
        seen = observe([row])
        rule = policy.spec.rule.function
        assert rule(seen["queue"][0], seen["server"], policy.params, memory) == left


# -- where they come from -------------------------------------------------------------------------


def test_generated_ones_leave_everything_else_as_it_is() -> None:
    scenario = get_scenario(SERIAL)
    plain, told = (
        scenario.workload(load=0.9, num_requests=200, predictor_error=error)
        for error in (None, "refreshed")
    )
    assert told.refreshed_tokens is not None
    assert plain.equals(replace(told, refresh_every=0, refreshed_tokens=None))
    counts = np.diff(told.refresh_offset)
    assert (counts == (told.output_tokens - 1) // 32).all()
    # the errors of one request are the same: log(told rest / rest)
    first = told.refresh_offset[:-1][counts > 4]
    generated = 32.0 * np.arange(1, 4)
    rests = told.refreshed_tokens[first[:, None] + np.arange(3)] - generated
    noise = np.log(rests / (told.output_tokens[counts > 4][:, None] - generated))
    np.testing.assert_allclose(noise, np.repeat(noise[:, :1], 3, axis=1))
    assert noise.std() == pytest.approx(0.37, abs=0.06)
    vague = replace(scenario, requests=replace(scenario.requests, refresh_error=0.7))  # type: ignore[type-var]
    assert vague.digest != scenario.digest


def recorded() -> AcceptanceTrace:
    """Requests of 4 and 3 tokens, in turns, with a refresh after 2."""
    trace = small_trace(
        prompt_tokens=np.array([10, 7]),
        predicted_tokens=np.array([9.0, 3.0]),
        refreshed_tokens=np.array([4.5, 2.5]),
        info=replace_info(refresh_every=2),
    )
    return trace.select(np.array([0, 1, 0, 1, 0]))


def replace_info(**changes: Any) -> TraceInfo:
    return TraceInfo("draft-model", "big", "small", {"temperature": 0.0}, **changes)


def test_a_trace_keeps_them_through_all_that_is_done_to_it(tmp_path: Path) -> None:
    trace = recorded()
    trace.save(tmp_path / "t.safetensors")
    read = AcceptanceTrace.load(tmp_path / "t.safetensors")
    assert read.info.refresh_every == 2
    assert read.refreshed_tokens is not None
    assert read.refreshed_tokens.tolist() == [4.5, 2.5, 4.5, 2.5, 4.5]
    assert read.refresh_offset.tolist() == [0, 1, 2, 3, 4, 5]
    read.export_jsonl(tmp_path / "t.jsonl")
    assert '"refreshed_tokens": [4.5]' in (tmp_path / "t.jsonl").read_text()
    both = joined([read, read])
    assert both.refreshed_tokens is not None
    assert (both.refreshed_tokens.size, both.info.refresh_every) == (10, 2)
    other = replace(read, refreshed_tokens=None, info=replace_info())
    assert joined([read, other]).refreshed_tokens is None


def test_recorded_ones_are_played() -> None:
    requests = RecordedRequests(recorded(), recorded(), "by hand")
    scenario = Scenario("mine", "", SECONDS, requests, Poisson(), {"train": 1.0, "test": 1.0})
    drawn = scenario.workload(load=0.9, num_requests=20, predictor_error="refreshed")
    assert drawn.refreshed_tokens is not None
    long = drawn.output_tokens == 4
    assert (drawn.refreshed_tokens == np.where(long, 4.5, 2.5)).all()
    assert (drawn.predicted_tokens == np.where(long, 9.0, 3.0)).all()
    assert scenario.workload(load=0.9, num_requests=20).refreshed_tokens is None


def test_the_traffic_file_has_both_laws(tmp_path: Path) -> None:
    traffic = fit_traffic(get_scenario("chat-serial-8b"), "refreshed")
    assert traffic.laws.rests is not None
    # of what is left a refresh is 0.37 off, which the line around it is fitted to
    assert traffic.laws.rests.variance.max() < 0.15 < traffic.laws.variance.max()
    write_traffic(tmp_path / "traffic.json", traffic)
    read = policies.read_traffic(tmp_path / "traffic.json")
    for name in ("gittins", "bayes_srpt_heavy"):
        params = [policies.make(name, "chat-serial-8b", traffic=t).params for t in (traffic, read)]
        assert params[0].tolist() == params[1].tolist()


def test_environment_and_evaluation_agree(tmp_path: Path) -> None:
    grid = Grid(
        ("gittins", "sprpt"), ("chat-serial-8b",), (0.9,), 2, 30, predictor_error="refreshed"
    )
    evaluation = Evaluation(grid)
    evaluation.run()
    write_results(evaluation.results(), tmp_path / "results.json")
    results = read_results(tmp_path / "results.json")
    for row in results.rows:
        assert row.predictor_error == "refreshed"
        assert rerun(results, row, 0)["mean_latency_s"] == row.episode_mean_latency_s[0]
        policy, drawn, scenario = parts_of(results, row, 0)
        assert drawn.refreshed_tokens is not None
        env = gym.make(laps_env.REPLAY_IDS[0], scenario=scenario, num_requests=30, split="test")
        summary = follow(policy, env, {"workload": drawn})[-1]
        assert summary["mean_latency_s"] == row.episode_mean_latency_s[0]


def test_they_are_worth_something() -> None:
    scenario = get_scenario(SERIAL)
    means: dict[str | None, float] = {}
    for error in (None, "refreshed"):
        policy = policies.make("gittins", scenario, predictor_error=error)
        for seed in range(3):
            drawn = scenario.workload(load=0.9, num_requests=500, seed=seed, predictor_error=error)
            done = serve(policy, drawn, scenario, split="train").requests()
            latency = (done["completion_ns"] - done["arrival_ns"]).mean()
            means[error] = means.get(error, 0.0) + latency
    assert means["refreshed"] < 0.97 * means[None]


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # B of 4 tokens told anew after its 4th: it is finished
        (
            {"refreshed_tokens": np.array([5.0, 5.0, 4.0, 4.0])},
            "refreshed_tokens: expected 3, one after every 2 tokens of a request that goes on and "
            "none for a finished one, got 4",
        ),
        ({"refreshed_tokens": np.array([5.0, 5.0])}, "expected 3, .*, got 2"),
        (
            {"refreshed_tokens": np.array([5.0, 4.0, 4.0])},
            "refreshed_tokens of request 0: expected more than the 4 tokens generated .*, got 4",
        ),
        ({"refreshed_tokens": np.array([5.0, 5.0, np.nan])}, "of request 1: .*2 tokens.*got nan"),
        ({"refreshed_tokens": np.array([5.0, 5.0, 1e300])}, r"of request 1: .*got 1e\+300"),
        ({"refreshed_tokens": np.array([5, 5, 4])}, r"expected float64 \[F\], got int64 \(3,\)"),
        ({"refreshed_tokens": None}, "expected refresh_every >= 1 and refreshed_tokens together"),
        ({"refresh_every": 0}, "expected refresh_every >= 1 and refreshed_tokens together"),
        ({"refresh_every": -1}, "refresh_every: expected an integer >= 0, got -1"),
        ({"refresh_every": 2.0}, "refresh_every: expected an integer >= 0, got 2.0"),
    ],
)
def test_what_is_no_refresh_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        workload(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"refreshed_tokens": np.array([4.5, 2.5, 9.0])},
            "refreshed_tokens: expected 2 entries, one per refresh, got 3",
        ),
        (
            {"refreshed_tokens": np.array([4.5, 2.0])},
            r"request 1, refreshed_tokens\[0\]: expected more than the 2 tokens .*, got 2.0",
        ),
        ({"refreshed_tokens": None}, "info.refresh_every: expected >= 1 beside refreshed_tokens"),
        ({"info": replace_info()}, "info.refresh_every: expected >= 1 beside .*, got 0"),
        ({"info": replace_info(refresh_every=-2)}, "info.refresh_every: .*, got -2"),
    ],
)
def test_a_trace_with_others_is_refused(changes: dict[str, Any], message: str) -> None:
    trace = replace(recorded().select(np.array([0, 1])), **changes)
    with pytest.raises(ValueError, match=message):
        trace.validate()


def test_where_there_are_none_it_is_said(lookup_scenario: str) -> None:
    message = "predictor_error: expected requests with refreshed predictions for 'refreshed', those"
    with pytest.raises(ValueError, match=f"{message} of scenario 'lookup'"):
        gym.make(laps_env.REPLAY_IDS[0], scenario=lookup_scenario, predictor_error="refreshed")
    with pytest.raises(ValueError, match=message):
        policies.make("gittins", lookup_scenario, predictor_error="refreshed")
