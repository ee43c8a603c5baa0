"""The verdict in words, on rows whose right answer is plain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from result_rows import make_results, make_row

from laps_env.evaluation.results import Row
from laps_env.report.verdict import verdicts

PLACE = "by hand, load 0.9, 1 scenario"


def row(policy: str, means: tuple[float, ...], tails: tuple[float, ...], **other: Any) -> Row:
    given: dict[str, Any] = {
        "episode_mean_latency_s": list(means),
        "episode_p99_latency_s": list(tails),
        "contended_share": 0.5,
        "episodes": len(means),
        "seeds": list(range(len(means))),
    }
    return make_row(policy, **given | other)


FCFS = row("fcfs", (4.0, 4.0), (5.0, 5.0))
SHORT = row("sjf", (1.0, 1.0), (10.0, 10.0))
ORACLE = row("oracle_srpt", (0.5, 0.5), (1.0, 1.0))
REFERENCE = row("laps_sd_tuned", (2.0, 2.0), (20.0, 20.0))


def test_the_best_for_mean_and_tail_are_named_with_their_price() -> None:
    told = verdicts(make_results(FCFS, SHORT, REFERENCE, ORACLE))
    assert told == {
        PLACE: [
            "Order can matter: 50% of fcfs's rounds left somebody waiting.",
            "For the mean: sjf, with 0.25 (0.25-0.25) of fcfs's mean and 2.00 (2.00-2.00) of its "
            "p99; all others are told apart from it.",
            "For the tail (p99): fcfs, with 4.00 (4.00-4.00) of sjf's mean and 0.50 (0.50-0.50) of "
            "its p99; all others are told apart from it.",
            "For both (their product): sjf, with 0.25 (0.25-0.25) of fcfs's mean and 2.00 "
            "(2.00-2.00) of its p99; all others are told apart from it.",
        ]
    }


def test_what_leads_on_some_workloads_only_is_not_told_apart() -> None:
    """Paired: one is ahead in both workloads however they differ, the other in one of them."""
    best = row("sjf", (1.0, 8.0), (1.0, 1.0))
    ahead = row("las", (1.1, 8.8), (1.0, 1.0))
    mixed = row("laps_sd_tuned", (0.5, 9.0), (1.0, 1.0))
    mean, tail, _ = verdicts(make_results(best, ahead, mixed))[PLACE][1:]
    assert mean.endswith("; not told apart from it: laps_sd_tuned.")
    assert tail.endswith("; not told apart from it: las, laps_sd_tuned.")
    assert mean.startswith("For the mean: sjf, with 0.95 (0.89-2.00) of laps_sd_tuned's mean")


def test_scenarios_count_alike_and_families_and_loads_apart() -> None:
    """Geometric mean of 1/4 and 2, whatever seconds they are of; an idle server has no vote."""
    other = {"scenario": "code-serial-135m"}
    idle = {"scenario": "bursty-serial-135m", "contended_share": 0.0}
    rows = [
        *(FCFS, SHORT, REFERENCE),
        row("fcfs", (100.0, 100.0), (5.0, 5.0), **other),
        row("sjf", (200.0, 200.0), (10.0, 10.0), **other),
        row("laps_sd_tuned", (500.0, 500.0), (20.0, 20.0), **other),
        *(row(name, (1.0, 1.0), (1.0, 1.0), **idle) for name in ("fcfs", "sjf", "laps_sd_tuned")),
        row("laps_sd_tuned", (1.0, 1.0), (1.0, 1.0), load=0.1, contended_share=0.0),
        row("laps_sd_tuned", (1.0, 1.0), (1.0, 1.0), source={"acceptance": "there"}),
    ]
    told = verdicts(make_results(*rows))
    place, *others = told
    assert place == "by hand, load 0.9, 3 scenarios"
    assert told[place][0].endswith("; none did in 1 of 3 scenarios, which are left out.")
    assert told[place][1].startswith("For the mean: sjf, with 0.71 (0.71-0.71) of fcfs's mean and ")
    assert others == ["by hand, load 0.1, 1 scenario", "there, load 0.9, 1 scenario"]
    assert told[others[0]] == ["No round left anybody waiting, so order cannot matter."]
    assert told[others[1]][1] == "laps_sd_tuned alone was played, so there is nothing to compare."


def test_a_clairvoyant_reference_is_measured_against() -> None:
    rows = (replace(row, reference="oracle_srpt") for row in (ORACLE, SHORT))
    mean = verdicts(make_results(*rows))[PLACE][1]
    assert mean == "For the mean: oracle_srpt; all others are told apart from it."


@pytest.mark.parametrize("share", [None, 0.5])
def test_a_workload_alone_tells_nothing_apart(share: float | None) -> None:
    rows = (
        row(n, (m,), (1.0,), contended_share=share) for n, m in (("laps_sd_tuned", 2), ("a", 1))
    )
    order, mean, *_ = verdicts(make_results(*rows))[PLACE]
    assert order == "Order can matter" + (
        ": 50% of laps_sd_tuned's rounds left somebody waiting." if share else "."
    )
    assert mean == (
        "For the mean: a, with 0.50 of laps_sd_tuned's mean and 1.00 of its p99; "
        "one workload tells nothing apart."
    )


def test_policies_on_other_workloads_are_not_compared() -> None:
    other = row("las", (0.1, 0.1), (0.1, 0.1), seeds=[7, 8])
    assert all("las," not in said for said in verdicts(make_results(FCFS, REFERENCE, other))[PLACE])
