"""The board: the policies of one or more results files on the same workloads, best first."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from laps_env.evaluation.report import markdown_table

Row = dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """A policy over all scenarios and loads.

    Attributes:
        policy: its name.
        mean: geometric mean, over scenarios and loads, of its mean latency over the reference's.
        tail: the same of p99 latencies, None where no file has rows of the reference.
        below, even, above: scenarios and loads in which the 95 % interval of that ratio of mean
            latencies is below, around and above 1; those of a single workload have none.
        worst: the largest of the ratios, and where.
    """

    policy: str
    mean: float
    tail: float | None
    below: int
    even: int
    above: int
    worst: tuple[float, str]


def standings(results: Iterable[dict[str, Any]]) -> list[Standing]:
    """The policies of results files, lowest mean first.

    Args:
        results: contents of results files, made by the same code.

    Raises:
        ValueError: a policy was not measured on the workloads of the first one, or two rules have
            one name.
    """
    found: dict[str, dict[str, Row]] = {}
    for document in results:
        for row in document["rows"]:
            own = found.setdefault(row["policy"], {})
            same = own.setdefault(_workloads(row), row)
            if same["episode_mean_latency_s"] != row["episode_mean_latency_s"]:
                raise ValueError(
                    f"{row['policy']}: expected one rule of that name, got two: other latencies in "
                    f"{_place(row)}"
                )
    first = next(iter(found))
    for policy, own in found.items():
        if own.keys() != found[first].keys():
            raise ValueError(
                f"{policy}: expected the workloads of {first}, got others: "
                f"{len(own.keys() - found[first].keys())} rows more, "
                f"{len(found[first].keys() - own.keys())} rows less"
            )
    reference = found.get(document["reference"])
    return sorted((_standing(own, reference) for own in found.values()), key=lambda s: s.mean)


def _standing(own: dict[str, Row], reference: dict[str, Row] | None) -> Standing:
    rows = list(own.values())
    ratios = np.array([row["ratio_to_laps_sd"] for row in rows])
    intervals = [row["ratio_ci95"] for row in rows if row["ratio_ci95"] is not None]
    below, above = sum(high < 1 for _, high in intervals), sum(low > 1 for low, _ in intervals)
    tail = None
    if reference is not None:
        tails = [row["p99_latency_s"] / reference[key]["p99_latency_s"] for key, row in own.items()]
        tail = float(np.exp(np.log(tails).mean()))
    worst = int(ratios.argmax())
    return Standing(
        rows[0]["policy"],
        float(np.exp(np.log(ratios).mean())),
        tail,
        below,
        len(intervals) - below - above,
        above,
        (float(ratios[worst]), _place(rows[worst])),
    )


def _place(row: Row) -> str:
    return f"{row['scenario']}, load {row['load']}"


def _workloads(row: Row) -> str:
    """What a row was measured on, as text."""
    names = ("scenario", "load", "seeds", "num_requests", "set_tag", "slots", "predictor_error")
    return json.dumps([row[name] for name in (*names, "sha256")], sort_keys=True)


def board_table(listed: list[Standing]) -> str:
    """The standings as Markdown."""
    body = [
        [
            rank,
            f"`{s.policy}`",
            f"{s.mean:.3f}",
            "n/a" if s.tail is None else f"{s.tail:.3f}",
            f"{s.below} / {s.even} / {s.above}",
            f"{s.worst[0]:.2f} ({s.worst[1]})",
        ]
        for rank, s in enumerate(listed, 1)
    ]
    return markdown_table(
        ["", "policy", "mean latency", "p99 latency", "below / even / above", "worst"], body
    )
