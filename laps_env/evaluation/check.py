"""Whether a results file holds: a sample of its workloads is run again and compared bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from laps_env.evaluation.results import LATENCIES, TAILS, place_of, read_results
from laps_env.evaluation.runner import rerun
from laps_env.utils.checks import check_count


@dataclass(frozen=True)
class Check:
    """One workload of a row, run again.

    Attributes:
        row: scenario, load, policy and seed in words.
        claimed, found: mean and p99 latency, seconds.
    """

    row: str
    claimed: tuple[float, float]
    found: tuple[float, float]

    @property
    def holds(self) -> bool:
        """Whether both are the same numbers."""
        return self.claimed == self.found


def check_results(path: Path, count: int) -> Iterator[Check]:
    """Run so many workloads of a results file again, other ones of its rows at every call.

    Raises:
        ValueError: no results file of this version, one of other code, of a live server or of a
            recording or policy that is not here.
        OSError: it cannot be read.
    """
    check_count("sample", count)
    results = read_results(path)
    places = [(k, i) for k, row in enumerate(results["rows"]) for i in range(len(row["seeds"]))]
    rng = np.random.default_rng()  # whoever made the file must not know which
    for place in rng.permutation(len(places))[:count].tolist():
        number, episode = places[place]
        row = results["rows"][number]
        where = f"{place_of(row)}, {row['policy']}, seed {row['seeds'][episode]}"
        try:
            found = rerun(row, episode)
        except ValueError as error:
            raise ValueError(f"{path}: {where}: {error}") from None
        yield Check(
            where,
            (row[LATENCIES][episode], row[TAILS][episode]),
            (found["mean_latency_s"], found["p99_latency_s"]),
        )
