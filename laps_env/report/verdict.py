"""What results say, in a few sentences for each family of scenarios and load."""

from __future__ import annotations

from typing import Any

import numpy as np

from laps_env.evaluation.results import Results, Row
from laps_env.evaluation.statistics import (
    Floats,
    Interval,
    log_levels,
    ratio_of_levels,
    side_of_one,
)

#: Policy that others are measured by here, where it was played; else the reference.
BASE = "fcfs"

#: Policies that a sentence names; of more it gives the number.
MOST_NAMED = 4

Rows = dict[str, Row]
"""Rows of a policy by scenario."""


def verdicts(results: Results) -> dict[str, list[str]]:
    """Sentences on each family of scenarios at each load, from the rows alone.

    Whether order can matter; which policy is best for the mean latency, for its p99, and for both,
    at what price; and what is not told apart from it, because the paired 95 % interval of their
    ratio holds 1. The clairvoyant is left out where it is not the reference, and so are policies
    that miss some of the workloads.

    Returns:
        Sentences by family, load and number of scenarios in words.
    """
    groups: dict[tuple[str, float | str], dict[str, Rows]] = {}
    for row in results.rows:
        group = groups.setdefault((row.family, row.load), {})
        group.setdefault(row.policy, {})[row.scenario] = row
    found = {}
    for (family, load), group in groups.items():
        count = len(group[results.reference])
        place = f"{family}, load {load}, {count} scenario{'s' * (count > 1)}"
        found[place] = _sentences(group, results)
    return found


def _sentences(group: dict[str, Rows], results: Results) -> list[str]:
    reference = results.reference
    compared = {
        policy: rows
        for policy, rows in group.items()
        if (policy == reference or policy != results.oracle)
        and _workloads(rows) == _workloads(group[reference])
    }
    base = BASE if BASE in compared else reference
    contended = {name: row for name, row in compared[base].items() if row.contended_share != 0}
    if not contended:
        return ["No round left anybody waiting, so order cannot matter."]
    said = [_on_order(list(compared[base].values()))]
    if len(compared) == 1:
        return [*said, f"{base} alone was played, so there is nothing to compare."]
    played = [[rows[name] for name in contended] for rows in compared.values()]
    return said + _on_policies(dict(zip(compared, played, strict=True)), base)


def _workloads(rows: Rows) -> dict[str, Any]:
    return {name: (row.seeds, row.num_requests) for name, row in rows.items()}


def _on_order(rows: list[Row]) -> str:
    shares = [share for row in rows if (share := row.contended_share)]
    idle = sum(row.contended_share == 0 for row in rows)
    words = "Order can matter"
    if shares:
        words += f": {np.mean(shares):.0%} of {rows[0].policy}'s rounds left somebody waiting"
    if idle:
        words += f"; none did in {idle} of {len(rows)} scenarios, which are left out"
    return f"{words}."


def _on_policies(played: dict[str, list[Row]], base: str) -> list[str]:
    """A sentence on the best policy for the mean, for the tail, and for both."""
    count = min(row.episodes for row in played[base])
    means, tails = (
        {
            policy: log_levels([np.array(getattr(row, f"episode_{name}")) for row in rows])
            for policy, rows in played.items()
        }
        for name in ("mean_latency_s", "p99_latency_s")
    )
    both = {policy: means[policy] + tails[policy] for policy in played}
    goals = {"the mean": means, "the tail (p99)": tails, "both (their product)": both}
    fastest = _best(means)
    said = []
    for goal, levels in goals.items():
        best = _best(levels)
        other = fastest if best == base else base
        words = f"For {goal}: {best}"
        if best != other:
            mean, tail = (ratio_of_levels(of[best], of[other], count) for of in (means, tails))
            words += f", with {told(*mean)} of {other}'s mean and {told(*tail)} of its p99"
        said.append(f"{words}; {_not_told_apart(best, levels, count)}.")
    return said


def _best(levels: dict[str, Floats]) -> str:
    return min(levels, key=lambda policy: levels[policy][0])


def told(value: float, interval: Interval, digits: int = 2) -> str:
    """A number with its interval, where there is one."""
    bounds = "" if interval is None else f" ({interval[0]:.{digits}f}-{interval[1]:.{digits}f})"
    return f"{value:.{digits}f}{bounds}"


def _not_told_apart(best: str, levels: dict[str, Floats], count: int) -> str:
    """Policies that may be as good as the best, nearest first."""
    if count < 2:
        return "one workload tells nothing apart"
    tied = []
    for policy in sorted(levels, key=lambda policy: levels[policy][0]):
        _, interval = ratio_of_levels(levels[policy], levels[best], count)
        if policy != best and interval is not None and side_of_one(interval) == 0:
            tied.append(policy)
    if not tied:
        return "all others are told apart from it"
    more = f" and {len(tied) - MOST_NAMED} more" * (len(tied) > MOST_NAMED)
    return f"not told apart from it: {', '.join(tied[:MOST_NAMED])}{more}"
