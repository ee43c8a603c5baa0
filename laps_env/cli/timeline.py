"""``laps-env timeline``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from laps_env.cli.command import Command, Count, File, Load
from laps_env.utils.files import outputs, write_beside
from laps_env.utils.policy_names import list_names

if TYPE_CHECKING:
    from laps_env.report.timeline import Timeline as Recorded

#: Requests where no results file says how many.
REQUESTS = 100


@dataclass(frozen=True)
class Timeline(Command):
    """Show what happens to each request: a page that compares policies, and Chrome traces.

    The page opens in any browser and loads nothing; the traces beside it, one a policy, open in
    https://ui.perfetto.dev. The workload is that of this seed in the test split, as in an
    evaluation; with a results file it is the one that was evaluated.

    $ laps-env timeline --policies fcfs,laps_sd --seed 0 --out timeline.html
    $ laps-env timeline --results results.json --policies laps_sd_tuned,learned --seed 3
    $ laps-env timeline --policies fcfs,laps_sd --requests 1000 --csv requests.csv
    """

    scenario: str = "mixed-serial-8b"
    """Name of the scenario."""
    policies: tuple[str, ...] = ("fcfs", "laps_sd")
    """Names of policies."""
    load: Load = 0.9
    """Share of saturation, or 'recorded'."""
    requests: Count = None
    """Requests of the workload, by default 100; not with --results."""
    seed: int = 0
    """Seed of the workload."""
    results: File = None
    """Results file that has the episode."""
    out: Path = Path("timeline.html")
    """Page; the traces are named after it."""
    csv: File = None
    """Table of the requests, a line for each with each policy."""
    overwrite: bool = False
    """Replace a page and traces that are there."""

    def run(self) -> int:
        """Record, write, name the files."""
        from laps_env.report.request_table import request_table
        from laps_env.report.timeline_page import trace_path, write_timelines

        names = list(dict.fromkeys(list_names(self.policies)))
        paths = (self.out, *(trace_path(self.out, name) for name in names))
        with outputs(*paths, self.csv, inputs=[self.results], overwrite=self.overwrite):
            timelines = self._record(names) if self.results is None else self._find(names)
            requests = len(timelines[0].requests) if timelines else 0
            title = f"{self.scenario}, load {self.load}, {requests} requests, seed {self.seed}"
            if self.results is not None:
                title += f", {self.results.name}"
            print("\n".join(map(str, write_timelines(timelines, self.out, title))))
            if self.csv is not None:
                write_beside(self.csv, [request_table(timelines).encode()])
                print(self.csv)
        return 0

    def _record(self, names: list[str]) -> list[Recorded]:
        """The timelines of policies on a scenario of the package."""
        from laps_env.report.timeline import record_policy

        return [
            record_policy(
                name,
                self.seed,
                scenario=self.scenario,
                load=self.load,
                num_requests=REQUESTS if self.requests is None else self.requests,
                split="test",
            )
            for name in names
        ]

    def _find(self, names: list[str]) -> list[Recorded]:
        """The timelines of an episode of the results file.

        Raises:
            ValueError: The file has no such episode, or it cannot be run again.
        """
        from laps_env.evaluation.results import read_results
        from laps_env.report.timeline import record_row

        assert self.results is not None
        if self.requests is not None:
            raise ValueError(f"requests: expected none beside a results file, got {self.requests}")
        results = read_results(self.results)
        try:
            rows = [results.find(self.scenario, self.load, name) for name in names]
            return [record_row(results, row, row.episode_of(self.seed)) for row in rows]
        except ValueError as error:
            raise ValueError(f"{self.results}: {error}") from None
