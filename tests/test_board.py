"""The board: ratios by hand, files that do not belong together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laps_env.cli import main
from laps_env.evaluation.runner import CODE, FORMAT, VERSION
from laps_env.report.leaderboard import board_table, standings


def row(policy: str, load: float, mean: float, p99: float, **other: Any) -> dict[str, Any]:
    conditions = {"seeds": [0, 1], "num_requests": 9, "split": "test", "slots": 64}
    return {
        "scenario": "chat-serial-135m",
        "load": load,
        "policy": policy,
        "policy_sha256": None,
        "parameters": {},
        "predictor_error": 0.5,
        "saturation_rps": 1.0,
        "recordings": {},
        "source": {"acceptance": "by hand"},
        "gap_closed": None,
        "mean_latency_s": mean,
        "p50_latency_s": 1.0,
        "p95_latency_s": 1.0,
        "mean_ttft_s": 1.0,
        "max_slowdown": 1.0,
        "max_idle_s": 0.0,
        "episodes": 2,
        "sha256": {},
        "ratio_to_reference": 0.01,  # what a file says of itself does not count
        "ratio_ci95": [0.01, 0.02],
        "p99_latency_s": p99,
        "episode_mean_latency_s": [mean, mean],
        "episode_p99_latency_s": [p99, p99],
        **conditions,
        **other,
    }


def document(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "code": CODE,
        "created": "",
        "reference": "laps_sd_tuned",
        "oracle": "oracle_srpt",
        "rows": list(rows),
    }


BASE = document(row("laps_sd_tuned", 0.7, 10.0, 2.0), row("laps_sd_tuned", 0.9, 30.0, 4.0))
MINE = document(row("mine", 0.9, 60.0, 1.0), row("mine", 0.7, 5.0, 4.0))


def test_standings_are_the_hand_worked_ones() -> None:
    better = document(row("other", 0.7, 6.4, 2.0), row("other", 0.9, 30.0, 4.0))
    first, *tied = standings([BASE, MINE, better])
    assert (first.policy, first.mean, first.tail) == (
        "other",
        pytest.approx(0.8),
        pytest.approx(1.0),
    )
    assert (first.below, first.even, first.above) == (1, 1, 0)
    mine = next(s for s in tied if s.policy == "mine")
    assert mine.mean == pytest.approx(1.0)  # of 1/2 and 2
    assert mine.tail == pytest.approx(0.5**0.5)  # of 2 and 1/4, place by place
    assert (mine.below, mine.even, mine.above) == (1, 0, 1)
    assert mine.worst == (2.0, "chat-serial-135m, load 0.9")
    table = board_table([first, *tied])
    assert (
        "| 1 | `other` | 0.800 | 1.000 | 1 / 1 / 0 | 1.00 (chat-serial-135m, load 0.9) |" in table
    )


HALF = document(row("mine", 0.9, 60.0, 1.0))
OTHER_SEEDS = document(HALF["rows"][0], row("mine", 0.7, 5.0, 4.0, seeds=[5, 6]))
OTHER_RULE = document(row("mine", 0.9, 60.0, 1.0, policy_sha256="0123abcdef"), MINE["rows"][1])
OTHER_LENGTHS = document(
    HALF["rows"][0],
    row("mine", 0.7, 5.0, 4.0, recordings={"lengths": "arrivals", "arrival_trace": "x"}),
)


@pytest.mark.parametrize(
    ("base", "other", "message"),
    [
        (BASE, HALF, "mine: expected the workloads of laps_sd_tuned, got others: 0 rows more, 1"),
        (BASE, OTHER_SEEDS, "1 rows more, 1 rows less"),
        (BASE, OTHER_LENGTHS, "1 rows more, 1 rows less"),
        (
            MINE,
            document(row("mine", 0.7, 4.0, 4.0)),
            "mine: expected the same latencies in all fil",
        ),
        (
            MINE,
            document(row("mine", 0.7, 5.0, 3.0)),
            "mine: expected the same latencies in all fil",
        ),
        (BASE, OTHER_RULE, "mine@0123abcd: expected the workloads of laps_sd_tuned, got others"),
        (MINE, MINE, "expected rows of laps_sd_tuned, got only mine"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    base: dict[str, Any],
    other: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [tmp_path / "base.json", tmp_path / "other.json"]
    for path, content in zip(paths, (base, other), strict=True):
        path.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stopped:
        main(["board", *map(str, paths)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
