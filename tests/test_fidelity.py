"""Live against replay: exact by the calibrated clock, compared and reported by the measured one."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("scipy")

from tiny_models import tiny_pair  # noqa: E402

from laps_env.cli import main  # noqa: E402
from laps_env.live.engine import loading  # noqa: E402
from laps_env.live.engine.loading import Pair  # noqa: E402
from laps_env.live.measure.agreement import (  # noqa: E402
    METRICS,
    Metrics,
    Order,
    compare_metrics,
    compare_order,
)
from laps_env.live.measure.fidelity import (  # noqa: E402
    Repetition,
    calibration_grid,
    run,
    take_turns,
)
from laps_env.live.measure.side_by_side import (  # noqa: E402
    Servers,
    Settings,
    record_questions,
    shared_engine,
)
from laps_env.live.prompts import DEMO_PROMPTS, partition, read_questions  # noqa: E402

SETTINGS = Settings(num_requests=6, max_new_tokens=24, load=2.0, policies=("fcfs", "laps_sd"))


pytestmark = pytest.mark.usefixtures("one_thread")


def servers(drafter: str = "model") -> Servers:
    pair = tiny_pair(drafter)
    questions = read_questions([DEMO_PROMPTS])
    categories = sorted({q.category for q in questions})
    asked = partition(questions)["test"]
    trace = record_questions(pair, asked, categories, SETTINGS.max_new_tokens)
    assert trace.num_requests == len(asked)
    assert trace.info.provenance["corrected_positions"] == 0
    engine = shared_engine(pair, SETTINGS, calibration_grid(trace, SETTINGS.server()))
    return Servers(pair, SETTINGS, trace, SETTINGS.server().cost, engine)


# -- the calibrated clock -------------------------------------------------------------------------


@pytest.mark.parametrize("drafter", ["model", "head", "lookup"])
def test_nothing_differs_by_the_calibrated_clock(drafter: str) -> None:
    both = servers(drafter)
    for policy in SETTINGS.policies:
        row = both.check(policy)
        assert row.mismatches == 0
        assert row.steps >= row.rounds / SETTINGS.server().batch_size
        assert row.tokens == both.known.output_tokens.sum() >= row.rounds > 0


def test_a_wrong_recording_is_found() -> None:
    both = servers()
    runs = both.known.accepted_length.copy()
    runs[0] = 0 if runs[0] else 1
    both.known = replace(both.known, accepted_length=runs)
    row = both.check("fcfs")
    assert row.rounds_apart == 1
    assert row.steps_apart > 0


def test_a_text_of_another_length_is_found() -> None:
    both = servers()
    known = both.known
    shorter = known.output_tokens.copy()
    shorter[-1] -= 1
    both.known = replace(
        known,
        output_tokens=shorter,
        accepted_length=known.accepted_length[:-1],
        max_draft=None if known.max_draft is None else known.max_draft[:-1],
    )
    row = both.check("fcfs")
    assert row.rounds_apart >= 1
    assert row.mismatches > 0


# -- the measured clock ---------------------------------------------------------------------------


def test_every_policy_is_played_in_every_repetition() -> None:
    kept: list[Repetition] = []
    findings = run(tiny_pair(), SETTINGS, 2, keep=kept.append)
    assert findings.repetitions == kept
    for repetition in kept:
        assert repetition.plays.keys() == set(SETTINGS.policies)
        assert not any(s.held_out for s in repetition.samples)
        cells = {(s.kind, s.batch, s.context) for s in repetition.samples}
        assert len(cells) == len(repetition.samples) == 4 * len(findings.grid.cells)
    assert len({r.arrivals for r in kept}) == 1
    assert len({r.cost for r in kept}) == 2
    assert sum(row.mismatches for row in findings.exact) == 0
    assert findings.captures == 0
    assert [len(plays) for plays in findings.replay.values()] == [2, 2]
    replayed = [play for plays in findings.replay.values() for play in plays]
    for play in [*replayed, *(p for r in kept for p in r.plays.values())]:
        assert set(play) == set(METRICS)
        assert all(value > 0 for value in play.values())


def test_repetitions_that_are_done_are_not_run_again() -> None:
    once = run(tiny_pair(), SETTINGS, 2)
    kept: list[Repetition] = []
    again = run(tiny_pair(), SETTINGS, 2, done=once.repetitions, keep=kept.append)
    assert not kept
    assert again.saturation_rps == once.saturation_rps
    assert again.replay == once.replay


def test_recorded_acceptance_is_compared_on_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of a generated scenario, cut to what a tiny context holds; nothing is recorded."""
    settings = Settings(
        scenario="math-batch8-8b", acceptance="recorded", num_requests=4, policies=("fcfs", "las")
    )
    longest = settings.workload()
    assert int((longest.prompt_tokens + longest.output_tokens).max()) < 512
    made: list[Any] = []
    make = Pair.engine

    def note(pair: Pair, **sizes: Any) -> Any:
        made.append(make(pair, **sizes))
        return made[-1]

    monkeypatch.setattr(Pair, "engine", note)
    findings = run(tiny_pair(length=600), settings, 2)
    assert len(made) == 1
    assert made[0].target.slots >= 8
    assert sorted(made[0]._free) == list(range(made[0].target.slots))
    assert [row.mismatches for row in findings.exact] == [0, 0]
    assert [row.tokens for row in findings.exact] == [int(longest.output_tokens.sum())] * 2
    assert (findings.captures, findings.corrected) == (0, 0)


def test_the_noise_needs_two_repetitions() -> None:
    with pytest.raises(ValueError, match="repetitions: expected an integer >= 2, got 1"):
        run(tiny_pair(), SETTINGS, 1)


def test_the_grid_lies_around_the_workload() -> None:
    questions = partition(read_questions([DEMO_PROMPTS]))["test"]
    categories = sorted({q.category for q in questions})
    trace = record_questions(tiny_pair(), questions, categories, 24)
    grid = calibration_grid(trace, SETTINGS.server().with_changes(batch_size=4, draft_length=4))
    assert (grid.batches, grid.draft_lengths) == ((1, 2, 3, 4), (4,))
    assert trace.prompt_tokens.min() < grid.contexts[0] < grid.contexts[-1]
    assert grid.contexts[-1] < (trace.prompt_tokens + trace.output_tokens).max()
    least = calibration_grid(trace, SETTINGS.server().with_changes(batch_size=1, draft_length=0))
    assert (least.batches, least.draft_lengths) == ((1, 2), (0,))


def test_episodes_and_calibration_take_turns() -> None:
    told: list[str] = []

    def episode(name: str, seconds: list[float]) -> Generator[float, None, Metrics]:
        for s in seconds:
            told.append(name)
            yield s
        return {"seconds": sum(seconds)}

    def cells() -> Iterator[list[Any]]:
        while True:
            told.append("cell")
            yield ["sample"]

    live = {"a": episode("a", [0.4] * 6), "b": episode("b", [1.5])}
    samples, plays = take_turns(live, cells(), 10)
    assert plays == {"a": {"seconds": pytest.approx(2.4)}, "b": {"seconds": 1.5}}
    # In a turn an episode runs until its clock has passed the turn's end; one that is ahead waits.
    turn = ["cell"] * 3
    expected = [*turn, "a", "a", "a", "b", *turn, "a", "a", *turn, "a"]
    assert told == [*expected, "cell"]  # ten cells at least
    assert len(samples) == 10


@pytest.mark.parametrize("policy", ["oracle_srpt", "fcfs+smartspec"])
def test_policies_that_cannot_be_compared_are_refused(policy: str) -> None:
    with pytest.raises(ValueError, match="policies: expected rules that know no true length"):
        replace(SETTINGS, policies=("fcfs", policy))


# -- comparisons, by hand -------------------------------------------------------------------------


def plays(*latencies: float) -> list[Metrics]:
    return [dict.fromkeys(METRICS, latency) for latency in latencies]


def test_errors_and_noise() -> None:
    rows = compare_metrics({"fcfs": plays(9.0, 10.0, 11.0)}, {"fcfs": plays(9.0, 9.5, 10.0)})
    assert [row.metric for row in rows] == list(METRICS)
    for row in rows:
        assert (row.live, row.replay) == (10.0, 9.5)
        assert row.noise == pytest.approx(0.1)
        assert row.noise_of_mean == pytest.approx(0.1 / np.sqrt(3))
        assert row.error == pytest.approx(-0.05)


def test_the_order_counts_where_it_exceeds_its_noise() -> None:
    live = {
        "a": plays(10.0, 20.0, 30.0),  # what all of a repetition's episodes share cancels
        "b": plays(11.0, 21.2, 31.1),
        "c": plays(10.05, 19.9, 30.05),
    }
    replay = {"a": plays(18.0, 20.0), "b": plays(20.0, 22.0), "c": plays(22.0, 22.0)}
    first, second, third = compare_order(live, replay)
    assert (first.first, first.second) == ("a", "b")
    assert (first.live, first.replay) == (pytest.approx(-1.1), -2.0)
    assert first.standard_error == pytest.approx(0.1 / np.sqrt(3))
    # Student's t with two degrees of freedom leaves 5 % beyond 4.303
    assert first.margin == pytest.approx(4.303 * 0.1 / np.sqrt(3), rel=1e-3)
    assert first.decided
    assert first.same
    assert (second.first, second.second) == ("a", "c")
    assert second.live == pytest.approx(0.0)
    assert not second.decided
    assert (third.first, third.second) == ("b", "c")
    assert third.decided  # 1.1 s, give or take 0.45 s
    assert not third.same


def test_equal_policies_have_no_order() -> None:
    row = Order("a", "b", live=0.0, standard_error=0.0, margin=0.0, replay=0.0)
    assert not row.decided


# -- the command ----------------------------------------------------------------------------------

COMMAND = ["fidelity", "--num-requests", "6", "--max-new-tokens", "24", "--load", "2"]
COMMAND += ["--policies", "fcfs,laps_sd", "--repetitions", "2", "--out", "fidelity.md"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tiny pair as the models."""
    monkeypatch.setattr(loading, "load_pair", lambda *args, **options: tiny_pair())
    monkeypatch.chdir(tmp_path)


def test_an_interrupted_comparison_goes_on_and_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Path("runs/fidelity.journal")
    play = Servers.play_live
    played: list[str] = []

    def interrupted(self: Servers, policy: str) -> Generator[float, None, Metrics]:
        if len(played) == 3:
            raise KeyboardInterrupt
        played.append(policy)
        return play(self, policy)

    monkeypatch.setattr(Servers, "play_live", interrupted)
    monkeypatch.setattr("sys.argv", ["laps-env", *COMMAND])
    with pytest.raises(SystemExit):
        main(COMMAND)
    monkeypatch.setattr(Servers, "play_live", play)
    head, line = journal.read_text().splitlines()
    journal.write_text(f"{head}\n{line}\n{line[:9]}")  # cut while it was written

    main(COMMAND)
    assert not journal.exists()
    raw = json.loads(Path("runs/fidelity.json").read_text())
    assert raw["repetitions"][0] == json.loads(line)
    assert len(raw["repetitions"]) == 2
    assert len(raw["errors"]) == 2 * len(METRICS)
    assert len(raw["orders"]) == 1
    page = Path("fidelity.md").read_text()
    for policy in ("fcfs", "laps_sd"):
        assert page.count(f"| `{policy}` |") == 1 + len(METRICS)
    assert "**Calibrated clock: met.** 0 differences in" in page
    assert "**Mean latency: m" in page
    assert "laps-env fidelity --num-requests 6" in page
    assert "written: fidelity.md" in capsys.readouterr().out


def test_a_journal_of_other_settings_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").mkdir()
    Path("runs/fidelity.journal").write_text('{"code": "other"}\n')
    with pytest.raises(SystemExit):
        main(COMMAND)
    assert "fidelity.journal: expected a journal of {" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--policies", "best"], "policy: expected one of"),
        (["--scenario", "none"], "scenario: expected one of"),
        (["--draft-length", "17"], "draft_length: expected 0..16"),
        (["--out", "nowhere/fidelity.md"], "expected a file in an existing folder"),
    ],
)
def test_bad_options_are_refused_before_models_are_loaded(
    option: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loading, "load_pair", pytest.fail)
    with pytest.raises(SystemExit):
        main(["fidelity", *option])
    assert message in capsys.readouterr().err
