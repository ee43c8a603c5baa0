"""``laps-env fidelity``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from laps_env.cli.command import Count
from laps_env.cli.models import OnModels
from laps_env.utils.documents import write_document
from laps_env.utils.files import outputs, write_beside
from laps_env.utils.policy_names import list_names


@dataclass(frozen=True, kw_only=True)
class Fidelity(OnModels):
    """Compare the replay with the live server: a page in Markdown, and the raw rows.

    Finished repetitions go to a journal beside the rows, so the same command goes on where it was
    stopped. Give the device to this command alone while it runs.

    $ laps-env fidelity --load 0.9 --out fidelity.md --json fidelity.json
    """

    scenario: str = "demo"
    """Name of the scenario: arrivals, batch and pool."""
    acceptance: Literal["live", "recorded"] = "live"
    """Judge of the drafts: the target, or the scenario's workload (for random weights)."""
    prompts: tuple[str, ...] = ()
    """Prompt files, by default the demo's."""
    num_requests: int = 24
    """Requests of the workload."""
    max_new_tokens: int = 96
    """Most output tokens of a request."""
    load: float = 0.9
    """Share of the replay's saturation."""
    policies: tuple[str, ...] = ("fcfs", "las", "sprpt", "laps_sd")
    """Names of policies."""
    draft_length: Count = None
    """Tokens drafted in a round, by default the scenario's."""
    repetitions: int = 5
    """Live episodes of every policy."""
    out: Path = Path("docs/fidelity.md")
    """Page in Markdown."""
    json: Path = Path("runs/fidelity.json")
    """Raw rows."""
    overwrite: bool = False
    """Replace outputs that are there."""

    resumes: ClassVar[bool] = True

    def run(self) -> int:
        """Measure, compare, write."""
        from laps_env.live.measure.fidelity_page import compare, open_journal, raw, report, verdicts
        from laps_env.live.measure.side_by_side import Settings
        from laps_env.live.prompts import DEMO_PROMPTS

        settings = Settings(
            scenario=self.scenario,
            acceptance=self.acceptance,
            prompts=self.prompts or (DEMO_PROMPTS,),
            num_requests=self.num_requests,
            max_new_tokens=self.max_new_tokens,
            load=self.load,
            policies=list_names(self.policies),
            draft_length=self.draft_length,
        )
        if self.json == type(self).json:
            self.json.parent.mkdir(exist_ok=True)  # not in the repository
        with outputs(self.out, self.json, inputs=settings.prompts, overwrite=self.overwrite):
            # in float32 the texts are the same each time; a recording needs no texts
            pair = self.load_models("float32" if self.acceptance == "live" else "auto")
            with open_journal(self.json.with_suffix(".journal"), pair, settings) as journal:
                command = shlex.join(["laps-env", *sys.argv[1:]])
                told = partial(print, flush=True)
                result = compare(pair, settings, self.repetitions, journal, command, told)
                write_document(self.json, "laps-env fidelity", 1, raw(result))
                write_beside(self.out, [report(result).encode()])
                journal.remove()
        print(f"\n{verdicts(result)}\n\nwritten: {self.out}, {self.json}")
        return 0
