"""The leaderboard: policies of one or more results files on the same workloads, best first.

Serving teams trade the mean latency for its tail, so a policy is judged by both: it is on the
frontier where no other is better in one and at least as good in the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from laps_env.evaluation.results import Results, Row
from laps_env.evaluation.statistics import (
    Interval,
    log_levels,
    ratio_of_levels,
    ratio_with_interval,
    side_of_one,
)
from laps_env.report.tables import markdown_table
from laps_env.report.verdict import told

Workloads = tuple[Any, ...]
"""Everything that a row was measured on."""


@dataclass(frozen=True)
class Standing:
    """A policy over all scenarios and loads.

    Attributes:
        policy: Name, with the policy's digest where the files have several of that name.
        mean: Geometric mean, over scenarios and loads, of its mean latency over the reference's,
            with its interval ``mean_ci95``.
        tail: Geometric mean of p99 latencies over the reference's, with ``tail_ci95``.
        attainment: Share of the limits that it kept, mean over scenarios and loads that have
            limits; None without any.
        on_frontier: Whether no other policy is better for mean or tail and as good for the other;
            the clairvoyant, which nobody can be, does not count.
        better, tied, worse: Scenarios and loads in which the 95 % interval of that ratio of mean
            latencies is below, around and above 1; those of a single workload have none.
        worst: Largest of the ratios, and where.
    """

    policy: str
    mean: float
    mean_ci95: Interval
    tail: float
    tail_ci95: Interval
    attainment: float | None
    better: int
    tied: int
    worse: int
    worst: tuple[float, str]
    on_frontier: bool = False


def leaderboard(results: Iterable[Results]) -> list[Standing]:
    """The policies of results files, lowest mean first, from the latencies of each workload alone.

    Args:
        results: Contents of results files of one simulator version and one reference.

    Raises:
        ValueError: Several simulator versions or references, a policy that was not measured on the
            reference's workloads, or one whose latencies differ from file to file.
    """
    documents = list(results)
    rows = [row for document in documents for row in document.rows]
    for name in ("simulator", "reference"):
        values = list(dict.fromkeys(getattr(row, name) for row in rows))
        if len(values) != 1:
            raise ValueError(f"results: expected one {name} in all files, got {values}")
    found = _by_policy(rows, _changing(documents))
    name = rows[0].reference
    if name not in found:
        raise ValueError(f"{name}: expected one digest in all files, got {', '.join(found)}")
    reference = found[name]
    for policy, own in found.items():
        if own.keys() != reference.keys():
            raise ValueError(
                f"{policy}: expected the workloads of {name}, got others: "
                f"{len(own.keys() - reference.keys())} rows more, "
                f"{len(reference.keys() - own.keys())} rows less"
            )
    standings = [_standing(policy, own, reference) for policy, own in found.items()]
    rivals = [s for s in standings if s.policy != rows[0].oracle]
    marked = (
        replace(s, on_frontier=s in rivals and not any(_dominates(r, s) for r in rivals))
        for s in standings
    )
    return sorted(marked, key=lambda standing: standing.mean)


def _dominates(one: Standing, other: Standing) -> bool:
    """Whether it is as good for mean and tail, and better for one."""
    return (
        one.mean <= other.mean
        and one.tail <= other.tail
        and ((one.mean, one.tail) != (other.mean, other.tail))
    )


def leaderboard_table(listed: list[Standing]) -> str:
    """The standings as Markdown, with their ranks under each objective."""
    limited = any(s.attainment is not None for s in listed)
    by_tail = sorted(listed, key=lambda s: s.tail)
    by_limits = sorted(listed, key=lambda s: -(s.attainment or 0.0))
    headings = [
        *("", "policy", "mean latency", "p99 latency", "rank by p99", "frontier"),
        *(["limits kept", "rank by limits"] if limited else []),
        *("better / tied / worse", "worst"),
    ]
    body = [
        [
            rank,
            f"`{s.policy}`",
            told(s.mean, s.mean_ci95, 3),
            told(s.tail, s.tail_ci95, 3),
            1 + by_tail.index(s),
            "yes" if s.on_frontier else "",
            *([_share(s.attainment), 1 + by_limits.index(s)] if limited else []),
            f"{s.better} / {s.tied} / {s.worse}",
            f"{s.worst[0]:.2f} ({s.worst[1]})",
        ]
        for rank, s in enumerate(listed, 1)
    ]
    return markdown_table(headings, body)


def _share(attainment: float | None) -> str:
    return "n/a" if attainment is None else f"{attainment:.1%}"


def _changing(documents: list[Results]) -> set[str]:
    """Policies that are not the same in all files.

    A model may have weights for each scenario, so digests may differ from scenario to scenario
    within a file; but not for one scenario, and files without a digest in common have different
    policies.
    """
    in_files = [{(r.policy, r.scenario, r.policy_digest) for r in d.rows} for d in documents]
    seen = set().union(*in_files)
    places = Counter((policy, scenario) for policy, scenario, _ in seen)
    changing = {policy for (policy, _), count in places.items() if count > 1}
    for policy in {policy for policy, *_ in seen}:
        digests = [{d for name, _, d in found if name == policy} for found in in_files]
        if any(a.isdisjoint(b) for a, b in combinations(filter(None, digests), 2)):
            changing.add(policy)
    return changing


def _by_policy(rows: list[Row], changing: set[str]) -> dict[str, dict[Workloads, Row]]:
    """Rows by policy and workloads; what several files have must be the same there."""
    found: dict[str, dict[Workloads, Row]] = {}
    for row in rows:
        several = row.policy in changing
        name = f"{row.policy}@{row.policy_digest[:8]}" if several else row.policy
        same = found.setdefault(name, {}).setdefault(_workloads(row), row)
        if _latencies(same) != _latencies(row):
            raise ValueError(
                f"{name}: expected the same latencies in all files, got others in {row.place}"
            )
    return found


def _workloads(row: Row) -> Workloads:
    return (
        row.backend,
        row.scenario,
        row.scenario_digest,
        row.load,
        tuple(row.seeds),
        row.num_requests,
        row.split,
        row.slots,
        row.predictor_error,
        row.recordings.lengths,
        row.recordings.scaling,
        tuple(sorted(row.recording_digests.items())),
    )


def _latencies(row: Row) -> tuple[list[float], list[float]]:
    return row.episode_mean_latency_s, row.episode_p99_latency_s


def _standing(policy: str, own: dict[Workloads, Row], reference: dict[Workloads, Row]) -> Standing:
    pairs = [(row, reference[workloads]) for workloads, row in own.items()]
    means = [
        ratio_with_interval(
            np.array(row.episode_mean_latency_s), np.array(base.episode_mean_latency_s)
        )
        for row, base in pairs
    ]
    sides = [side_of_one(interval) for _, interval in means if interval is not None]
    ratios = np.array([ratio for ratio, _ in means])
    worst = int(ratios.argmax())
    kept = [row.slo_attainment for row, _ in pairs if row.slo_attainment is not None]
    return Standing(
        policy,
        *_ratio(pairs, "episode_mean_latency_s"),
        *_ratio(pairs, "episode_p99_latency_s"),
        float(np.mean(kept)) if kept else None,
        sides.count(-1),
        sides.count(0),
        sides.count(1),
        (float(ratios[worst]), pairs[worst][0].place),
    )


def _ratio(pairs: list[tuple[Row, Row]], name: str) -> tuple[float, Interval]:
    """Geometric mean, over pairs of rows, of the first's latencies over the second's."""
    own, base = (log_levels([np.array(getattr(rows[k], name)) for rows in pairs]) for k in range(2))
    return ratio_of_levels(own, base, min(row.episodes for row, _ in pairs))
