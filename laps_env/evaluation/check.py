"""Whether a results file holds: a sample of its workloads is run again and compared bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from laps_env.evaluation.replay import rerun
from laps_env.evaluation.results import read_results
from laps_env.utils.checks import check_count


@dataclass(frozen=True)
class Check:
    """One workload of a row, run again.

    Attributes:
        row: Scenario, load, policy and seed in words.
        claimed, found: Mean and p99 latency in seconds.
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
        ValueError: No results file, or rows of another simulator version, of a scenario, policy or
            recording that has changed, or of a live server.
        OSError: The file cannot be read.
    """
    check_count("sample", count)
    results = read_results(path)
    places = [(row, episode) for row in results.rows for episode in range(row.episodes)]
    rng = np.random.default_rng()  # whoever made the file must not know which
    for number in rng.permutation(len(places))[:count].tolist():
        row, episode = places[number]
        try:
            found = rerun(results, row, episode)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        yield Check(
            f"{row.place}, {row.policy}, seed {row.seeds[episode]}",
            (row.episode_mean_latency_s[episode], row.episode_p99_latency_s[episode]),
            (found["mean_latency_s"], found["p99_latency_s"]),
        )
