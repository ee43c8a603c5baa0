"""The leaderboard: ratios by hand, files that do not belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from result_rows import make_results as document
from result_rows import make_row

from laps_env.cli import main
from laps_env.evaluation.recordings import Recordings
from laps_env.evaluation.results import Results, Row, write_results
from laps_env.report.leaderboard import leaderboard, leaderboard_table


def row(policy: str, load: float | str, mean: float, p99: float, **other: Any) -> Row:
    return make_row(policy, mean, p99, load=load, **other)


REFERENCE = (row("laps_sd_tuned", 0.7, 10.0, 2.0), row("laps_sd_tuned", 0.9, 30.0, 4.0))
BASE = document(*REFERENCE)
MINE = document(row("mine", 0.9, 60.0, 1.0), row("mine", 0.7, 5.0, 4.0), *REFERENCE)


def test_standings_are_the_hand_worked_ones() -> None:
    other = document(row("other", 0.7, 6.4, 2.0), row("other", 0.9, 30.0, 4.0), *REFERENCE)
    first, *others = leaderboard([BASE, MINE, other])
    assert (first.policy, first.mean, first.tail) == (
        "other",
        pytest.approx(0.8),
        pytest.approx(1.0),
    )
    assert (first.better, first.tied, first.worse) == (1, 1, 0)
    mine = next(s for s in others if s.policy == "mine")
    assert mine.mean == pytest.approx(1.0)  # of 1/2 and 2
    assert mine.tail == pytest.approx(0.5**0.5)  # of 2 and 1/4, place by place
    assert (mine.better, mine.tied, mine.worse) == (1, 0, 1)
    assert mine.worst == (2.0, "chat-serial-135m, load 0.9")
    assert mine.tail_ci95 == pytest.approx((0.5**0.5,) * 2)  # two workloads, the same latencies
    # the reference is as good as "other" for the tail and worse for the mean
    assert [s.policy for s in [first, *others] if s.on_frontier] == ["other", "mine"]
    assert (
        "| 1 | `other` | 0.800 (0.800-0.800) | 1.000 (1.000-1.000) | 2 | yes | 1 / 1 / 0 "
        "| 1.00 (chat-serial-135m, load 0.9) |"
    ) in leaderboard_table([first, *others])


def test_the_clairvoyant_dominates_nobody_and_limits_have_ranks() -> None:
    rows = [
        row("laps_sd_tuned", 0.9, 30.0, 4.0, slo_attainment=0.5),
        row("oracle_srpt", 0.9, 10.0, 1.0, slo_attainment=0.9),
        row("fcfs", 0.9, 60.0, 2.0, slo_attainment=0.75),
    ]
    listed = leaderboard([document(*rows)])
    assert [(s.policy, s.on_frontier) for s in listed] == [
        ("oracle_srpt", False),
        ("laps_sd_tuned", True),
        ("fcfs", True),
    ]
    assert "| 3 | `fcfs` | 2.000 (2.000-2.000) | 0.500 (0.500-0.500) | 2 | yes | 75.0% | 2 |" in (
        leaderboard_table(listed)
    )


def test_the_numbers_of_an_older_simulator_can_be_ranked_among_themselves() -> None:
    older = [row("laps_sd_tuned", 0.7, 10.0, 2.0, simulator=1)]
    (alone,) = leaderboard([document(*older)])
    assert (alone.mean, alone.tied) == (1.0, 1)


def test_a_model_may_have_weights_for_each_scenario() -> None:
    places = {"chat-serial-135m": "aa", "code-serial-135m": "bb"}
    rows = [
        make_row(name, scenario=scenario, policy_digest=digest if name == "mine" else "cc")
        for scenario, digest in places.items()
        for name in ("mine", "laps_sd_tuned")
    ]
    assert {s.policy for s in leaderboard([document(*rows)])} == {"mine", "laps_sd_tuned"}
    halves = [document(*rows[:2]), document(*rows[2:])]  # nothing says that it is one model
    with pytest.raises(ValueError, match="mine@aa: expected the workloads of laps_sd_tuned"):
        leaderboard(halves)


HALF = document(row("mine", 0.9, 60.0, 1.0), *REFERENCE)
OTHER_SEEDS = document(row("mine", 0.7, 5.0, 4.0, seeds=[5, 6]), *HALF.rows)
OTHER_RULE = document(row("mine", 0.9, 60.0, 1.0, policy_digest="0123abcdef"), *REFERENCE)
OTHER_LENGTHS = document(
    row("mine", 0.7, 5.0, 4.0, recordings=Recordings(arrival_trace="x", lengths="arrivals")),
    *HALF.rows,
)
OTHER_SCENARIO = document(row("mine", 0.7, 5.0, 4.0, scenario_digest="ab"), *HALF.rows)
OLDER = document(*(row(r.policy, r.load, 1.0, 1.0, simulator=1) for r in REFERENCE))
OTHER_REFERENCE = document(row("fcfs", 0.7, 1.0, 1.0, reference="fcfs"))
CHANGED_REFERENCE = document(row("laps_sd_tuned", 0.7, 10.0, 2.0, policy_digest="ab"))


@pytest.mark.parametrize(
    ("base", "other", "message"),
    [
        (BASE, HALF, "mine: expected the workloads of laps_sd_tuned, got others: 0 rows more, 1"),
        (BASE, OTHER_SEEDS, "1 rows more, 1 rows less"),
        (BASE, OTHER_LENGTHS, "1 rows more, 1 rows less"),
        (BASE, OTHER_SCENARIO, "1 rows more, 1 rows less"),
        (
            MINE,
            document(row("mine", 0.7, 4.0, 4.0), *REFERENCE),
            "mine: expected the same latencies in all fil",
        ),
        (
            MINE,
            document(row("mine", 0.7, 5.0, 3.0), *REFERENCE),
            "mine: expected the same latencies in all fil",
        ),
        (MINE, OTHER_RULE, "mine@0123abcd: expected the workloads of laps_sd_tuned, got others"),
        (BASE, OLDER, "results: expected one simulator in all files, got ["),
        (
            BASE,
            OTHER_REFERENCE,
            "expected one reference in all files, got ['laps_sd_tuned', 'fcfs'",
        ),
        (BASE, CHANGED_REFERENCE, "laps_sd_tuned: expected one digest in all files, got laps_sd_t"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    base: Results,
    other: Results,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [tmp_path / "base.json", tmp_path / "other.json"]
    for path, content in zip(paths, (base, other), strict=True):
        write_results(content, path)
    with pytest.raises(SystemExit) as stopped:
        main(["board", *map(str, paths)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
