"""Timelines hold all of an episode, to the nanosecond, and the pages show it in a browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from laps_env import policies
from laps_env.cli import main
from laps_env.evaluation.episodes import play, serve
from laps_env.evaluation.grid import Grid
from laps_env.evaluation.recordings import Recordings
from laps_env.evaluation.results import write_results
from laps_env.evaluation.runner import Evaluation
from laps_env.report.chrome_trace import chrome_trace
from laps_env.report.timeline import (
    Timeline,
    TimelineRecorder,
    loads,
    record_policy,
    record_row,
    waiting_spans,
)
from laps_env.report.timeline_page import comparison_page
from laps_env.workloads.scenarios import get_scenario

#: Batches, and a pool so small that caches are evicted.
OPTIONS: dict[str, Any] = {
    "scenario": "pressure-batch8-135m",
    "load": 3.0,
    "num_requests": 60,
    "split": "test",
}


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    return record_policy("laps_sd", 5, **OPTIONS)


@pytest.fixture(scope="module")
def lookup() -> Timeline:
    """Drafts of prompt lookup, which cannot always propose, on a server that is often idle."""
    path = str(files("laps_env") / "data" / "traces" / "smollm2-135m-lookup-test.safetensors")
    scenario = Recordings(acceptance_trace=path).apply(get_scenario("chat-batch8-8b")).scenario
    return record_policy("laps_sd", 5, scenario=scenario, load=0.2, num_requests=30)


@pytest.fixture(params=["timeline", "lookup"])
def either(request: pytest.FixtureRequest) -> Timeline:
    found: Timeline = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("policy", ["laps_sd", "laps_sd_tuned+smartspec", "oracle_srpt", "learned"])
def test_what_is_recorded_is_what_the_evaluation_runs(policy: str) -> None:
    scenario = get_scenario(OPTIONS["scenario"])
    workload = scenario.workload(load=3.0, num_requests=60, split="test", seed=5)
    rule = policies.make(policy, scenario)
    if rule.spec.clairvoyant:
        rule = rule.with_oracle(workload, scenario.server)
    simulation = serve(rule, workload, scenario)
    timeline = record_policy(policy, 5, **OPTIONS)
    np.testing.assert_array_equal(timeline.requests, simulation.requests())
    assert sum(r.duration_ns for r in timeline.rounds) == simulation.state.servers[0]["busy_ns"]
    assert len(timeline.rounds) == simulation.state.servers[0]["rounds"]


def test_all_tokens_and_all_time_are_accounted_for(either: Timeline) -> None:
    timeline, count = either, len(either.requests)
    requests = timeline.requests
    totals = {name: np.zeros(count, np.int64) for name in ("committed", "drafted", "accepted")}
    served, recomputed, first = np.zeros((3, count), np.int64)
    for played in timeline.rounds:
        assert played.draft_ns + played.verify_ns <= played.duration_ns + 2  # each is rounded
        assert (played.draft_ns > 0) == any(turn.drafted for turn in played.turns)
        for turn in played.turns:
            for name, total in totals.items():
                total[turn.request] += getattr(turn, name)
            served[turn.request] += played.duration_ns
            recomputed[turn.request] += turn.computed if first[turn.request] else 0
            first[turn.request] = 1
    np.testing.assert_array_equal(totals["committed"], requests["output_tokens"])
    np.testing.assert_array_equal(totals["drafted"], requests["drafted"])
    np.testing.assert_array_equal(totals["accepted"], requests["accepted"])
    np.testing.assert_array_equal(served, requests["attained_ns"])
    np.testing.assert_array_equal(recomputed, requests["recomputed_tokens"])
    waited = [sum(end - start for start, end, _ in spans) for spans in waiting_spans(timeline)]
    np.testing.assert_array_equal(
        served + waited, requests["completion_ns"] - requests["arrival_ns"]
    )


def test_a_small_pool_evicts_and_computes_again(timeline: Timeline) -> None:
    assert any(played.evicted for played in timeline.rounds)
    assert timeline.requests["recomputed_tokens"].sum() > 0


def test_the_load_falls_to_nothing_when_the_server_is_idle(lookup: Timeline) -> None:
    steps = loads(lookup)
    idle = sum(b[0] - a[0] for a, b in pairwise(steps) if a[1:] == (0, 0))
    busy = sum(played.duration_ns for played in lookup.rounds)
    assert idle == lookup.end_ns - lookup.rounds[0].start_ns - busy
    assert idle > busy / 2
    assert all(a[1:] != b[1:] for a, b in pairwise(steps))


def test_what_is_unfinished_when_an_episode_is_cut_waits_until_then() -> None:
    options = {**OPTIONS, "time_limit_s": 20.0}
    env = TimelineRecorder(gym.make("laps_env/SpecDecodeReplay-v0", **options), "laps_sd")
    info = play(policies.make("laps_sd", OPTIONS["scenario"]), env, seed=5)
    timeline = env.timeline
    assert timeline is not None
    requests, end = timeline.requests, timeline.end_ns
    waited = np.array([sum(b - a for a, b, _ in spans) for spans in waiting_spans(timeline)])
    there = (requests["completion_ns"] == 0) & (requests["arrival_ns"] < end)
    assert there.sum() > 3
    assert not there.all()
    served = np.zeros(len(requests), np.int64)
    for played in timeline.rounds:
        for turn in played.turns:
            served[turn.request] += played.duration_ns
    np.testing.assert_array_equal((served + waited)[there], (end - requests["arrival_ns"])[there])
    text = comparison_page([timeline], "cut")
    told = re.search(r'"mean_latency": ([0-9.]+)', text)
    assert told is not None
    mean = info["summary"]["mean_latency_s"]  # until the time limit, which cut a round
    assert float(told[1]) == pytest.approx(mean, rel=0.05)
    assert loads(timeline)[-1] == (end, there.sum(), 0)


def test_any_evaluated_episode_has_its_timeline(tmp_path: Path) -> None:
    recorded = tmp_path / "azure.csv"
    times = "".join(f"2024-05-10 00:00:{s:06.3f}+00:00,90,{40 + s % 7:.0f}\n" for s in range(60))
    recorded.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + times)
    grid = Grid(
        policies=("sjf", "laps_sd_tuned"),
        scenarios=("chat-batch8-135m",),
        loads=("recorded", 0.7),
        episodes=2,
        num_requests=20,
        slots=16,
        predictor_error=0.3,
        recordings=Recordings(arrival_trace=str(recorded)),
    )
    evaluation = Evaluation(grid)
    evaluation.run()
    results, path = evaluation.results(), tmp_path / "results.json"
    for row, episode in product(results.rows, range(2)):
        requests = record_row(results, row, episode).requests
        latency = (requests["completion_ns"] - requests["arrival_ns"]) * 1e-9
        assert latency.mean() == pytest.approx(row.episode_mean_latency_s[episode], rel=1e-12)

    write_results(results, path)
    page = tmp_path / "page.html"
    chosen = f"--results {path} --scenario chat-batch8-135m --load recorded --seed 1 --out {page}"
    main(["timeline", *chosen.split(), "--policies", "sjf,laps_sd_tuned"])
    assert "chat-batch8-135m, load recorded, 20 requests, seed 1" in page.read_text()


def test_a_trace_has_each_moment_of_each_request_once(timeline: Timeline) -> None:
    document = json.loads(json.dumps(chrome_trace(timeline)))
    slices: dict[int, list[tuple[float, float, str]]] = {}
    for event in document["traceEvents"]:
        if event["ph"] == "X":
            own = slices.setdefault(event["tid"], [])
            own.append((event["ts"], event["ts"] + event["dur"], event["name"]))
    assert {name for own in slices.values() for *_, name in own} >= {
        "waiting",
        "pre-empted",
        "prefill",
        "draft",
        "verify",
    }
    for number, request in enumerate(timeline.requests):
        own = sorted(slices[number])
        assert own[0][0] == pytest.approx(request["arrival_ns"] / 1e3, abs=1e-3)
        assert own[-1][1] == pytest.approx(request["completion_ns"] / 1e3, abs=1e-3)
        for (_, end, _), (start, _, _) in pairwise(own):
            assert start == pytest.approx(end, abs=0.01)
    counters = {event["name"] for event in document["traceEvents"] if event["ph"] == "C"}
    assert counters == {"in the system", "batch", "cached tokens", "accepted / drafted"}


def test_texts_cannot_leave_the_data(timeline: Timeline) -> None:
    evil = "</script><script>alert(1)</script>"
    page = comparison_page([replace(timeline, title=evil, categories=(evil,) * 9)], evil)
    assert page.count("</script>") == 1


def test_timelines_of_different_requests_are_not_compared(timeline: Timeline) -> None:
    with pytest.raises(ValueError, match="expected the requests of laps_sd, got others in fcfs"):
        comparison_page([timeline, record_policy("fcfs", 6, **OPTIONS)], "two workloads")
    with pytest.raises(ValueError, match="expected at least one"):
        comparison_page([], "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenario", "none"], "scenario: expected one of"),
        (["--policies", "none"], "policy: expected one of"),
        (["--policies", ","], "timelines: expected at least one"),
        (["--requests", "0"], "num_requests: expected an integer >= 1"),
        (["--load", "-1"], "load: expected a finite number > 0"),
        (["--out", "nowhere/page.html"], "expected a file in an existing folder"),
        (["--policies", "a/b.py:spec,a-b.py:spec"], "outputs: expected a different name for each"),
        (["--results", "timeline.html"], "expected an output that is none of the inputs"),
        (["--load", "much"], "expected a number or 'recorded', got 'much'"),
        (["--results", "none.json"], "requests: expected none beside a results file, got 5"),
    ],
)
def test_bad_arguments_leave_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["timeline", "--requests", "5", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# -- in a browser ---------------------------------------------------------------------------------


def test_the_page_compares_in_a_browser(page: Any, tmp_path: Path) -> None:
    out = tmp_path / "timeline.html"
    main(["timeline", "--requests", "20", "--out", str(out)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "timeline-fcfs.trace.json",
        "timeline-laps_sd.trace.json",
        "timeline.html",
    ]
    page.goto(out.as_uri())
    assert [heading.inner_text() for heading in page.query_selector_all("h2")] == [
        "fcfs",
        "laps_sd",
    ]
    drawn = """canvas => {
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const isBlue = i => pixels[i] === 66 && pixels[i + 2] === 190;
        let blue = 0;
        for (let i = 0; i < pixels.length; i += 4) blue += isBlue(i);
        return blue;
    }"""
    charts = page.query_selector_all(".scroll canvas")
    whole = [chart.evaluate(drawn) for chart in charts]
    assert len(whole) == 2
    assert min(whole) > 50
    box = charts[1].bounding_box()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 5)
    tip = page.inner_text("#tip")
    assert re.search(r"request 0, (chat|code|math|news)", tip)
    assert "finished" in tip
    page.eval_on_selector(
        "#time", "slider => { slider.value = 300; slider.dispatchEvent(new Event('input')); }"
    )
    early = [chart.evaluate(drawn) for chart in charts]
    assert all(0 < e < w for e, w in zip(early, whole, strict=True))

    def drag(start: float, stop: float) -> None:
        page.mouse.move(box["x"] + box["width"] * start, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * stop, box["y"] + 5)
        page.mouse.up()

    drag(0.0, 0.25)  # the first quarter fills the charts
    span = re.search(r"\((.*) to (.*)\)", page.inner_text("#now"))
    assert span is not None
    end = json.loads(page.evaluate("JSON.stringify(end)"))
    assert [float(t) for t in span.groups()] == pytest.approx([0.0, end / 4], abs=0.2)
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 5)
    told = re.search(r"at (.*) s:", page.inner_text("#tip"))
    assert told is not None
    assert float(told[1]) == pytest.approx(end / 4, rel=0.05)
    page.mouse.dblclick(box["x"] + 9, box["y"] + 5)
    assert f"(0.0 to {end:.1f})" in page.inner_text("#now")
