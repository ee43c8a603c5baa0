"""The board: the policies of one or more results files on the same workloads, best first."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from laps_env.evaluation.grid import REFERENCE
from laps_env.evaluation.results import LATENCIES, TAILS, place_of
from laps_env.evaluation.statistics import ratio_with_interval, side_of_one
from laps_env.report.tables import markdown_table

Row = dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """A policy over all scenarios and loads.

    Attributes:
        policy: its name, with the digest of its file or model where it has one.
        mean: geometric mean, over scenarios and loads, of its mean latency over the reference's.
        tail: the same of p99 latencies.
        below, even, above: scenarios and loads in which the 95 % interval of that ratio of mean
            latencies is below, around and above 1; those of a single workload have none.
        worst: the largest of the ratios, and where.
    """

    policy: str
    mean: float
    tail: float
    below: int
    even: int
    above: int
    worst: tuple[float, str]


def standings(results: Iterable[dict[str, Any]]) -> list[Standing]:
    """The policies of results files, lowest mean first, from the latencies of each workload alone.

    Args:
        results: contents of results files, made by the same code; one has the reference.

    Raises:
        ValueError: no rows of the reference, a policy was not measured on its workloads, or its
            latencies differ from file to file.
    """
    found: dict[str, dict[str, Row]] = {}
    for row in (row for document in results for row in document["rows"]):
        name = _name(row)
        same = found.setdefault(name, {}).setdefault(_workloads(row), row)
        if any(same[listed] != row[listed] for listed in (LATENCIES, TAILS)):
            raise ValueError(
                f"{name}: expected the same latencies in all files, got others in {place_of(row)}"
            )
    if REFERENCE not in found:
        raise ValueError(f"expected rows of {REFERENCE}, got only {', '.join(found)}")
    reference = found[REFERENCE]
    for policy, own in found.items():
        if own.keys() != reference.keys():
            raise ValueError(
                f"{policy}: expected the workloads of {REFERENCE}, got others: "
                f"{len(own.keys() - reference.keys())} rows more, "
                f"{len(reference.keys() - own.keys())} rows less"
            )
    return sorted((_standing(own, reference) for own in found.values()), key=lambda s: s.mean)


def _standing(own: dict[str, Row], reference: dict[str, Row]) -> Standing:
    rows = list(own.values())
    means = [
        ratio_with_interval(*(np.array(r[LATENCIES], float) for r in (row, reference[key])))
        for key, row in own.items()
    ]
    tails = [np.sum(row[TAILS]) / np.sum(reference[key][TAILS]) for key, row in own.items()]
    sides = [side_of_one(interval) for _, interval in means if interval is not None]
    ratios = np.array([ratio for ratio, _ in means])
    worst = int(ratios.argmax())
    return Standing(
        _name(rows[0]),
        float(np.exp(np.log(ratios).mean())),
        float(np.exp(np.log(tails).mean())),
        sides.count(-1),
        sides.count(0),
        sides.count(1),
        (float(ratios[worst]), place_of(rows[worst])),
    )


def _name(row: Row) -> str:
    """Of a policy; rules of two people may have one file name."""
    digest = row["policy_sha256"]
    return str(row["policy"]) if digest is None else f"{row['policy']}@{str(digest)[:8]}"


def _workloads(row: Row) -> str:
    """What a row was measured on, as text."""
    names = ("scenario", "load", "seeds", "num_requests", "split", "slots", "predictor_error")
    played = [row["sha256"], row["recordings"].get("lengths")]
    return json.dumps([*(row[name] for name in names), *played], sort_keys=True)


def board_table(listed: list[Standing]) -> str:
    """The standings as Markdown."""
    body = [
        [
            rank,
            f"`{s.policy}`",
            f"{s.mean:.3f}",
            f"{s.tail:.3f}",
            f"{s.below} / {s.even} / {s.above}",
            f"{s.worst[0]:.2f} ({s.worst[1]})",
        ]
        for rank, s in enumerate(listed, 1)
    ]
    return markdown_table(
        ["", "policy", "mean latency", "p99 latency", "below / even / above", "worst"], body
    )
