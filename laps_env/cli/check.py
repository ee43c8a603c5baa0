"""``laps-env check``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from laps_env.cli.command import Command, one_line


@dataclass(frozen=True)
class Check(Command):
    """Run a sample of a results file again, and say whether it holds.

    A rule file that the results name is run, if it is here, as any Python file is: read it first
    where it or the results are somebody else's.

    $ laps-env check results.json
    $ laps-env check mine.json --sample 8
    """

    results: tyro.conf.Positional[Path]
    """Results file of this simulator version."""
    sample: int = 20
    """Workloads that are run again, other ones at every call."""

    def run(self) -> int:
        """Compare bit for bit; status 1 where a workload does not hold."""
        from laps_env.evaluation.check import check_results

        checks = []
        for done in check_results(self.results, self.sample):
            checks.append(done)
            if not done.holds:
                claimed, found = done.claimed, done.found
                row = one_line(done.row)
                print(f"{row}: expected mean and p99 latency {claimed} s, got {found} s")
        held = sum(done.holds for done in checks)
        total = len(checks)
        print(f"{self.results}: {held} of {total} workloads that were run again hold, bit for bit")
        return 0 if held == len(checks) else 1
