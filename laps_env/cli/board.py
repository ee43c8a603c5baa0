"""``laps-env board``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from laps_env.cli.command import Command


@dataclass(frozen=True)
class Board(Command):
    """Rank the policies of results files that were measured on the same workloads.

    Before a file of somebody else's is believed: laps-env check mine.json, which runs the rule
    files that it names.

    $ laps-env board results.json mine.json
    """

    results: tyro.conf.Positional[tuple[Path, ...]]
    """Results files of this simulator version."""

    def run(self) -> int:
        """Print the leaderboard."""
        from laps_env.evaluation.results import read_results
        from laps_env.report.leaderboard import leaderboard, leaderboard_table

        if not self.results:
            raise ValueError("results: expected at least one file, got none")
        print(leaderboard_table(leaderboard(map(read_results, self.results))))
        return 0
