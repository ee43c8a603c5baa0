"""``laps-env report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from laps_env.cli.command import Command, progress
from laps_env.utils.files import outputs


@dataclass(frozen=True)
class Report(Command):
    """Write the report of a results file: an HTML page, timelines, tables in Markdown.

    ``laps-env evaluate`` writes the same at its end. The first workload of each row is played
    again: a rule file that the results name is run, as by laps-env check.

    $ laps-env report results.json --out report
    """

    results: tyro.conf.Positional[Path] = Path("results.json")
    """Results file of this simulator version."""
    out: Path = Path("report")
    """Folder of the report."""
    overwrite: bool = False
    """Write into a folder that is not empty."""

    def run(self) -> int:
        """Write the pages and name the first."""
        from laps_env.evaluation.results import read_results
        from laps_env.report.write import steps_of, write_report

        with outputs(folders=[self.out], overwrite=self.overwrite):
            results = read_results(self.results)
            with progress(steps_of(results), unit="step", leave=False) as bar:
                print(write_report(results, self.out, bar.update))
        return 0
