"""``laps-env report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from laps_env.cli.command import Command, File, Folder, progress
from laps_env.utils.files import outputs


@dataclass(frozen=True)
class Report(Command):
    """Write the report of a results file (HTML page, timelines, Markdown), or its rows as a table.

    ``laps-env evaluate`` writes the same at its end. For a report the first workload of each row is
    played again: a rule file that the results name is run, as by laps-env check. A table plays
    nothing.

    $ laps-env report results.json --out report
    $ laps-env report results.json --export table.tex --columns scenario,policy,mean_latency_s
    """

    results: tyro.conf.Positional[Path] = Path("results.json")
    """Results file of this simulator version."""
    out: Folder = None
    """Folder of the report, by default report; none with --export alone."""
    export: File = None
    """Table of the rows: .csv, .md, .tex or .parquet."""
    columns: tuple[str, ...] = ()
    """Columns of the table, by default all entries of a row."""
    overwrite: bool = False
    """Replace a table, write into a folder that is not empty."""

    def run(self) -> int:
        """Write the table and the pages, and name them."""
        from laps_env.evaluation.results import read_results
        from laps_env.report.export import check_export, export_rows
        from laps_env.report.write import steps_of, write_report

        out = Path("report") if self.out is self.export is None else self.out
        if self.export is not None:
            check_export(self.export, self.columns)
        elif self.columns:
            raise ValueError(f"columns: expected none without --export, got {list(self.columns)}")
        with outputs(self.export, folders=[out], inputs=[self.results], overwrite=self.overwrite):
            results = read_results(self.results)
            if self.export is not None:
                export_rows(results, self.export, self.columns)
                print(self.export)
            if out is not None:
                with progress(steps_of(results), unit="step", leave=False) as bar:
                    print(write_report(results, out, bar.update))
        return 0
