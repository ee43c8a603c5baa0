"""The live environment: real rounds behind the same table, and replay agrees with it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from env_play import follow  # noqa: E402
from tiny_models import STOP, tiny_pair  # noqa: E402

import laps_env  # noqa: E402
from laps_env import policies  # noqa: E402
from laps_env.evaluation.grid import Grid  # noqa: E402
from laps_env.evaluation.recordings import Recordings  # noqa: E402
from laps_env.evaluation.results import read_results, write_results  # noqa: E402
from laps_env.evaluation.runner import Evaluation  # noqa: E402
from laps_env.live.backend import LiveBackend  # noqa: E402
from laps_env.live.measure.side_by_side import record_questions, replay_workload  # noqa: E402
from laps_env.live.prompts import DEMO_PROMPTS, PARTS, partition, read_questions  # noqa: E402
from laps_env.report.tables import results_text  # noqa: E402
from laps_env.report.timeline import Timeline  # noqa: E402
from laps_env.report.write import LiveReport  # noqa: E402
from laps_env.traces import TraceError  # noqa: E402
from laps_env.utils.splits import Split  # noqa: E402
from laps_env.workloads import Workload  # noqa: E402

LIMIT = 24
CROWDED = {"load": 3.0, "num_requests": 14, "slots": 6, "batch_size": 3, "draft_length": 4}


pytestmark = pytest.mark.usefixtures("one_thread")


def live(drafter: str = "model", **options: Any) -> Any:
    given: dict[str, Any] = {
        "target": tiny_pair(drafter),
        "max_new_tokens": LIMIT,
        "clock": "calibrated",
    }
    return gym.make(laps_env.LIVE_ID, **given | CROWDED | options).unwrapped


def recorded_workload(env: Any, drafter: str, workload: Workload) -> Workload:
    """The live workload with lengths and acceptance as the recorder finds them."""
    requests = env._envs.requests
    questions = [prompt.question for prompt in requests.prompts(Split.TRAIN)]
    trace = record_questions(tiny_pair(drafter), questions, requests.categories, LIMIT)
    assert trace.info.provenance["corrected_positions"] == 0
    return replay_workload(workload, trace)


@pytest.mark.parametrize("drafter", ["model", "head", "lookup"])
@pytest.mark.parametrize(
    ("policy", "server"),
    [
        ("laps_sd", {}),
        ("las", {"pool_tokens": 90, "draft_length": 2}),  # evictions
        ("sprpt", {"draft_length": "smartspec"}),
        ("sprpt", {"draft_length": (2, 1)}),
    ],
)
def test_replay_agrees_with_live_bit_for_bit(
    drafter: str, policy: str, server: dict[str, Any]
) -> None:
    """Every observation, reward, duration and metric of a trajectory, by the cost model's clock."""
    env = live(drafter, **server)
    env.reset(seed=3)
    workload = env.options.workload(seed=3, episode=0)
    known = recorded_workload(env, drafter, workload)
    assert (known.output_tokens < LIMIT).any()
    options = CROWDED | server
    replay = gym.make(laps_env.REPLAY_IDS[0], scenario=env.options.scenario, **options).unwrapped
    rule = policies.make(policy, "demo")
    of_live = follow(rule, env, {"workload": workload})
    of_replay = follow(rule, replay, {"workload": known})
    assert len(of_live) == len(of_replay)
    summary, expected = of_live.pop(), of_replay.pop()
    for here, there in zip(of_live, of_replay, strict=True):
        np.testing.assert_equal(here, there)
    assert "pool_tokens" not in server or expected["recomputed_tokens"] > 0
    for name, value in expected.items():
        # slowdowns are relative to the time alone, of which live knows what it has seen
        if "slowdown" not in name and name != "jain_fairness":
            assert summary[name] == value, name
    assert len(summary["texts"]) == CROWDED["num_requests"]


def test_swapping_is_mirrored_and_the_texts_do_not_depend_on_the_schedule() -> None:
    texts = []
    for name, server in (
        ("fcfs", {}),
        ("las", {"pool_tokens": 90}),
        ("laps_sd", {"scenario": swapping(), "pool_tokens": 90}),
    ):
        env = live("head", **server)
        summary = follow(policies.make(name, "demo"), env, {})[-1]
        texts.append(summary["texts"])
    assert texts[0] == texts[1] == texts[2]
    assert all(texts[0])


def swapping() -> Any:
    scenario = laps_env.workloads.scenarios.get_scenario("demo")
    return replace(scenario, server=scenario.server.with_changes(eviction="swap"))


def test_the_measured_clock_takes_what_the_rounds_took() -> None:
    env = live(clock="measured")
    env.reset(seed=0)
    rounds = 0.0
    terminated = False
    while not terminated:
        _, _, terminated, _, info = env.step(int(np.flatnonzero(env.action_masks())[0]))
        if info["round"]:
            rounds += env._envs.engine.times.total * 1e-9
    summary = info["summary"]
    assert summary["utilization"] * summary["makespan_s"] == pytest.approx(rounds)
    assert summary["scheduling_s"] > 0
    realised = env.workload()
    ends = realised.output_tokens
    assert summary["throughput_tps"] * summary["makespan_s"] == pytest.approx(ends.sum())
    assert all(g.output[-1] == STOP or len(g.output) == LIMIT for g in env._envs.generations)


def test_predictions_do_not_come_from_the_truth() -> None:
    """The same prompts with another limit, and so other lengths, are predicted alike."""
    short, long = live(max_new_tokens=3), live(max_new_tokens=LIMIT)
    first, second = (env.options.workload(seed=1, episode=0) for env in (short, long))
    np.testing.assert_array_equal(first.predicted_tokens, np.minimum(second.predicted_tokens, 3.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"clock": "sundial"},
            r"clock: expected one of measured, calibrated; got 'sundial'",
        ),
        ({"predictor_error": 0.3}, "unexpected keyword argument 'predictor_error'"),
        ({"temperature": -1.0}, "temperature: expected a number >= 0, got -1.0"),
        ({"max_new_tokens": 120}, r"prompt demo_prompts/\d+: expected at most -?\d+ tokens"),
        ({"prompts": ("nowhere.jsonl",)}, "nowhere.jsonl"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, OSError, TypeError), match=message):
        live(**options)


def test_a_workload_without_prompts_is_refused() -> None:
    env = live()
    foreign = replace(env.options.workload(seed=0, episode=0), source_index=None)
    with pytest.raises(ValueError, match="workload: expected one of this environment's own"):
        env.reset(options={"workload": foreign})


GRID = Grid(
    policies=("fcfs", "bayes_srpt_tuned", "laps_sd+smartspec", "learned_joint"),
    scenarios=("demo",),
    loads=(0.9,),
    episodes=2,
    num_requests=5,
    slots=4,
)


def test_policies_side_by_side_on_the_live_server(tmp_path: Path) -> None:
    done: list[int] = []
    report = LiveReport(tmp_path / "report")
    played: dict[Any, list[Timeline]] = {}

    def keep(place: Any, timelines: list[Timeline]) -> None:
        played[place] = timelines
        report.add(place, timelines)

    evaluation = Evaluation(
        GRID, backend=LiveBackend(tiny_pair("head"), keep=keep, max_new_tokens=8)
    )
    evaluation.run(on_progress=done.append)
    results = evaluation.results()
    assert done == [1] * 2 * 5  # with the reference, without an oracle
    assert [row.policy for row in results.rows] == [*GRID.policies, "laps_sd_tuned"]
    for row in results.rows:
        assert (row.backend, row.oracle, row.gap_closed) == ("live", None, None)
        assert row.source["draft"] == "head"
        assert row.scheduling_share is not None
    first, second = (
        next(t.texts for t in results.texts if (t.policy, t.seed) == (policy, 0))
        for policy in ("fcfs", "laps_sd+smartspec")
    )
    assert first == second
    assert len(first) == 5
    assert "live demo, load 0.9: 2 workloads of 5 requests" in results_text(results)
    for row, episode in product(results.rows, range(2)):
        (timeline,) = [t for t in played["demo", 0.9, episode] if t.title == row.policy]
        latency = timeline.requests["completion_ns"] - timeline.requests["arrival_ns"]
        claimed = row.episode_mean_latency_s[episode]
        assert latency.mean() * 1e-9 == pytest.approx(claimed, rel=1e-12)
        drafting = [r for r in timeline.rounds if any(turn.drafted for turn in r.turns)]
        assert drafting
        assert all(0 < r.draft_ns < r.duration_ns for r in drafting)
    text = report.write(results).read_text()
    assert '"timelines, load 0.9, seed 1": "timelines/demo-0.9-seed1.html"' in text
    assert len(list((tmp_path / "report" / "timelines").iterdir())) == 2 * (1 + 5)
    write_results(results, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policies": ("fcfs", "oracle_srpt")}, "a live server can follow, got 'oracle_srpt'"),
        ({"reference": "oracle_srpt"}, "a live server can follow, got 'oracle_srpt'"),
        ({"predictor_error": 0.4}, "predictor_error: expected none on a live server.* got 0.4"),
        ({"recordings": Recordings(prompts=None, arrival_trace=__file__)}, "recordings: expected"),
    ],
)
def test_a_grid_that_a_live_server_cannot_play_is_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluation(replace(GRID, **change), backend=LiveBackend(tiny_pair("head")))


def test_a_policy_whose_drafts_go_by_confidences_is_refused_with_a_lookup() -> None:
    with pytest.raises(ValueError, match=r"with confidences .* 'policy', got prompt lookup"):
        Evaluation(GRID, backend=LiveBackend(tiny_pair("lookup"), max_new_tokens=8))


# -- prompts --------------------------------------------------------------------------------------


def test_every_question_is_in_one_part(shared_data: Path) -> None:
    names = ("spec_bench.jsonl", "mbpp.jsonl", "gsm8k_test.jsonl", "humaneval.jsonl.gz")
    questions = read_questions([shared_data / "prompts" / name for name in names])
    assert len({q.turns[0] for q in questions}) == len(questions)  # gsm8k is partly in spec_bench
    parts = partition(questions)
    assert sorted(q.name for part in PARTS for q in parts[part]) == sorted(
        q.name for q in questions
    )
    assert len({q.category for q in parts["test"]}) == 7
    again = partition(questions[::-1])  # does not depend on the order of the files
    assert {p: [q.name for q in own] for p, own in again.items()} == {
        p: [q.name for q in own] for p, own in parts.items()
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"turns": []}', "line 1, turns: expected a list of length >= 1"),
        ('{"prompt": ""}', "line 1, prompt: expected a text of length >= 1, got ''"),
        ('{"prompt": "\\ud800"}', "line 1: expected a prompt of whole characters"),
        ("[1]", "entry 0: expected a JSON object, got 1"),
        ("", "expected at least one request, got none"),
    ],
)
def test_bad_prompt_files(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(TraceError, match=message):
        read_questions([path])


def test_the_demo_prompts_have_all_parts() -> None:
    parts = partition(read_questions([DEMO_PROMPTS]))
    assert all(len(parts[part]) >= 8 for part in PARTS)
