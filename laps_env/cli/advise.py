"""``laps-env advise``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from laps_env.cli.command import Command, File, Load, progress
from laps_env.utils.files import outputs, write_beside
from laps_env.utils.policy_names import list_names

POLICIES = ("fcfs", "sjf", "laps_sd_tuned", "gittins_tuned", "boost_tuned", "tie_tuned")
DRAFT_LENGTHS = ("0", "1", "2", "3", "4", "5", "6", "8")
#: Rules that stop speculating when the server is busy, for requests with limits.
ADMISSION = ("smartspec", "sglang")


@dataclass(frozen=True)
class Advise(Command):
    """Say what another scheduler, batch size or draft length would bring to a server.

    All combinations are screened on validation workloads; the best for the mean, for the tail and,
    where requests have limits, for the limits are judged on test workloads, paired with today's.

    $ laps-env advise mine.toml
    $ laps-env advise mine.toml --today sjf --batch-sizes 4,8,16 --out advice.md
    """

    scenario: tyro.conf.Positional[str]
    """Scenario: a file, or a name."""
    today: str = "fcfs"
    """Scheduler of today; batch size and draft length are the scenario's."""
    load: Load | None = None
    """Share of saturation, or 'recorded'; by default recorded where the arrivals are, else 0.9."""
    policies: tuple[str, ...] = POLICIES
    """Schedulers to try."""
    batch_sizes: tuple[int, ...] = ()
    """Batch sizes to try, by default half of today's, today's, twice and four times."""
    draft_lengths: tuple[str, ...] = ()
    """Draft lengths to try, by default 0 to 6 and 8, with limits also 'smartspec' and 'sglang';
    where the draft's confidences are known, 'confidence:0.3:8' and 'topk:4' are others."""
    requests: int = 10_000
    """Requests that the chosen are judged on, at least 2,000."""
    cost_error: float = 0.1
    """Relative error of the costs that the advice is tried against: what laps-env calibrate said of
    its held-out steps (assumed: 0.1)."""
    out: File = None
    """Page, .md."""
    overwrite: bool = False
    """Replace a page that is there."""

    def run(self) -> int:
        """Screen, judge, print, write."""
        from laps_env.evaluation.advice import advise, steps_of
        from laps_env.report.advice_page import advice_page

        if self.out is not None and self.out.suffix != ".md":
            raise ValueError(f"out: expected a file ending in .md, got {self.out}")
        with outputs(self.out, inputs=[Path(self.scenario)], overwrite=self.overwrite):
            question = self._question()
            with progress(steps_of(question), unit="decision") as bar:
                page = advice_page(advise(question, bar.update))
            print(page)
            if self.out is not None:
                write_beside(self.out, [page.encode()])
        return 0

    def _question(self) -> Any:
        from laps_env.evaluation.advice import Question
        from laps_env.workloads.arrivals import RecordedArrivals
        from laps_env.workloads.scenarios import get_scenario

        scenario = get_scenario(self.scenario)
        batch = scenario.server.batch_size
        recorded = isinstance(scenario.arrivals, RecordedArrivals)
        usual = (*DRAFT_LENGTHS, *(ADMISSION if scenario.limits else ()))
        return Question(
            scenario=scenario,
            load=("recorded" if recorded else 0.9) if self.load is None else self.load,
            today=self.today,
            policies=list_names(self.policies),
            batch_sizes=self.batch_sizes
            or tuple(dict.fromkeys((max(1, batch // 2), batch, 2 * batch, 4 * batch))),
            draft_lengths=tuple(
                int(given) if given.isdecimal() else given for given in self.draft_lengths or usual
            ),
            num_requests=self.requests,
            cost_error=self.cost_error,
        )
