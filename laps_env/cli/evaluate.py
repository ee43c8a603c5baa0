"""``laps-env evaluate``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from laps_env.catalog import default_policies, list_policies, list_scenarios
from laps_env.cli.command import (
    Command,
    Count,
    File,
    Folder,
    Load,
    PredictorError,
    Text,
    progress,
)
from laps_env.utils.checks import check_count
from laps_env.utils.files import outputs
from laps_env.utils.policy_names import list_names

#: Who is compared where nobody is named: the weakest and the strongest of each kind, for the mean
#: and for the tail.
POLICIES = (
    "fcfs",
    "sjf",
    "las_tuned",
    "laps_sd",
    "laps_sd_tuned",
    "gittins_tuned",
    "tie_tuned",
    "boost_tuned",
    "learned",
    "oracle_srpt",
)

#: Where: one request at a time and batches, recorded and generated requests, a pool that overflows.
SCENARIOS = (
    "mixed-serial-8b",
    "mixed-batch8-8b",
    "pressure-batch8-8b",
    "mixed-serial-135m",
    "code-batch8-135m",
)

#: What ``--full`` puts in place of the defaults: the board.
FULL: dict[str, Any] = {"policies": default_policies(), "scenario": tuple(list_scenarios())}

#: What ``--quick`` puts in place of the defaults: seconds, and no files.
QUICK: dict[str, Any] = {
    "policies": ("fcfs", "sjf", "las_tuned", "laps_sd_tuned", "gittins_tuned", "oracle_srpt"),
    "scenario": ("mixed-serial-8b", "mixed-batch8-135m"),
    "loads": (0.9,),
    "episodes": 8,
    "requests": 600,
}

#: What ``--env live`` puts in place of the defaults: a real server takes minutes, not seconds.
LIVE: dict[str, Any] = {
    "policies": ("fcfs", "laps_sd", "laps_sd_tuned"),
    "scenario": ("demo",),
    "loads": (0.9,),
    "episodes": 1,
    "requests": 16,
}


@dataclass(frozen=True)
class Evaluate(Command):
    """Compare policies: table, results file, picture, report.

    An interrupted evaluation with a results file goes on where it was.

    $ laps-env evaluate
    $ laps-env evaluate --quick
    $ laps-env evaluate --policies fcfs,laps_sd,my_rule.py:spec --loads 0.7,0.9 --json mine.json
    $ laps-env evaluate --env live --policies fcfs,laps_sd --report live-report
    """

    policies: tuple[str, ...] = POLICIES
    """Names, folders of trained models, your own rules (rule.py:spec), each with or without
    parameters (laps_sd:tolerance=0.1/0.2,queues=4: two policies), or 'all'."""
    scenario: tuple[str, ...] = SCENARIOS
    """Names of scenarios."""
    loads: tuple[Load, ...] = (0.7, 0.9)
    """Shares of saturation, or 'recorded'."""
    episodes: int = 20
    """Workloads per scenario and load."""
    requests: int = 1000
    """Requests per workload."""
    reference: str = "laps_sd_tuned"
    """Policy that all are measured against; always played and listed."""
    slots: int = 64
    """Rows of the request table."""
    predictor_error: PredictorError = None
    """Sd of log(predicted / true length); by default recorded where there are such, else 0.5;
    refreshed: those, told anew while a request runs."""
    seed: int = 0
    """First seed of the test split."""
    acceptance_trace: Text = None
    """Recorded acceptances: .safetensors, or Spec-Bench rounds .jsonl(.gz)."""
    arrival_trace: Text = None
    """Recorded arrivals: Azure or BurstGPT .csv, Mooncake .jsonl(.gz); see laps-env import."""
    lengths: Literal["acceptance", "arrivals"] = "acceptance"
    """Where lengths come from."""
    arrival_scaling: Literal["half", "window"] = "half"
    """Stretch of recorded arrivals to a load: one for all windows, or each window by itself."""
    prompts: Text = None
    """Spec-Bench questions, to estimate prompt lengths not recorded; live: prompt file."""
    env: Literal["replay", "live"] = "replay"
    """Server: replayed, or real models."""
    target: Text = None
    """Live: folder or hub name of the target, by default the demo's."""
    draft: Text = None
    """Live: folder or hub name of the draft, by default the demo's, or prompt-lookup."""
    device: str = "auto"
    """Live: auto, cpu, cuda, ..."""
    dtype: str = "auto"
    """Live: auto, float32, bfloat16 or float16."""
    clock: str = "measured"
    """Live: measured or calibrated."""
    acceptance: Literal["live", "recorded"] = "live"
    """Live: who judges drafts, the target, or the scenario's recording over any weights."""
    max_new_tokens: int = 128
    """Live: most output tokens of a request."""
    step_log: File = None
    """Live: log of the rounds of one scenario at one load, a new .jsonl file, which laps-env import
    and calibrate read."""
    json: File = None
    """Results file, by default results.json; none with --quick or live."""
    plot: File = None
    """Picture .png, .pdf or .svg, by default beside the results file."""
    export: File = None
    """Table of the rows: .csv, .md, .tex or .parquet; laps-env report chooses columns."""
    report: Folder = None
    """Folder of the HTML report, by default report where --json is not given."""
    overwrite: bool = False
    """Replace outputs that are there."""
    jobs: Count = None
    """Threads, by default one per processor."""
    quick: bool = False
    """A small grid in seconds: a table, no files."""
    full: bool = False
    """All policies in all scenarios, as on the board: some twenty minutes."""

    def usual(self) -> Self | None:
        """The defaults of a quick, a live or a full evaluation."""
        for asked, usual in ((self.quick, QUICK), (self.env == "live", LIVE), (self.full, FULL)):
            if asked:
                return type(self)(**usual)
        return None

    def run(self) -> int:
        """Run, print the tables, write the files."""
        outs = self._outputs()
        with outputs(
            outs.json,
            outs.export,
            outs.plot,
            folders=[outs.report],
            inputs=self._inputs(),
            overwrite=self.overwrite,
        ):
            self._evaluate(outs)
        index = None if outs.report is None else outs.report / "index.html"
        named = zip(
            ("results", "table", "picture", "report"),
            (outs.json, outs.export, outs.plot, index),
            strict=True,
        )
        if written := [f"{what}: {path}" for what, path in named if path]:
            print("\n" + ", ".join(written))
        return 0

    def _outputs(self) -> Outputs:
        """The outputs that were asked for, or the usual ones; those can be made here."""
        results, plot, report = self.json, self.plot, self.report
        if not self.quick and self.env == "replay":
            if results is None:
                results, report = Path("results.json"), report or Path("report")
            plot = plot or _usual_picture(results)
        if self.step_log is not None and self.env != "live":
            raise ValueError(f"step_log: expected none without --env live, got {self.step_log}")
        if self.step_log is not None:
            if len(self.scenario) * len(self.loads) > 1:
                raise ValueError("step_log: expected one scenario at one load, got several")
            if self.step_log.exists():
                raise ValueError(f"step_log: expected a new file, got {self.step_log}")
        if plot is not None:
            from laps_env.report.picture import check_picture

            if self.env == "live":
                raise ValueError(f"plot: expected none with env live, got {plot}")
            check_picture(plot)
        if self.export is not None:
            from laps_env.report.export import check_export

            check_export(self.export)
        return Outputs(results, self.export, plot, report)

    def _inputs(self) -> list[Path | str | None]:
        from laps_env.policies._registry import files_of

        own = [path for name in self._names() for path in files_of(name)]
        return [self.acceptance_trace, self.arrival_trace, self.prompts, *own]

    def _names(self) -> tuple[str, ...]:
        return tuple(list_policies()) if self.policies == ("all",) else list_names(self.policies)

    def _evaluate(self, outs: Outputs) -> None:
        from laps_env.evaluation.runner import Evaluation, open_journal
        from laps_env.report.tables import results_text
        from laps_env.report.write import LiveReport, steps_of, write_report

        check_count("jobs", self.jobs, optional=True)
        grid, live = self._grid(), self.env == "live"
        report = LiveReport(outs.report) if live and outs.report is not None else None
        with ExitStack() as opened:
            journal = None
            if outs.json is not None and not live:
                path = outs.json.with_name(f"{outs.json.name}.journal")
                journal = opened.enter_context(open_journal(path, grid))
            evaluation = Evaluation(grid, journal, self._live(report) if live else None)
            self._run(evaluation, resumable=journal is not None)
            results = evaluation.results()
            print(results_text(results))
            if results.texts:
                answer = results.texts[0].texts[0]
                print(f"\nthe first of {self.requests} answers: {answer[:300]!r}")
            self._write(results, outs)
            if journal is not None:
                journal.remove()
        if report is not None:
            report.write(results)
        elif outs.report is not None:
            with progress(steps_of(results), unit="step of the report") as bar:
                write_report(results, outs.report, bar.update)

    def _run(self, evaluation: Any, resumable: bool) -> None:
        total, resumed = evaluation.total_runs, evaluation.finished_runs
        if resumed:
            print(f"{resumed} of {total} runs taken from the journal", file=sys.stderr)
        try:
            with progress(total, resumed) as bar:
                evaluation.run(self.jobs, bar.update)
        except KeyboardInterrupt:
            outlook = ": the same command goes on there" if resumable else ", which are not kept"
            finished = evaluation.finished_runs
            raise KeyboardInterrupt(f" with {finished} of {total} runs finished{outlook}") from None

    def _grid(self) -> Any:
        from laps_env.evaluation.grid import Grid
        from laps_env.evaluation.recordings import Recordings

        return Grid(
            policies=self._names(),
            scenarios=self.scenario,
            loads=self.loads,
            episodes=self.episodes,
            num_requests=self.requests,
            first_seed=self.seed,
            slots=self.slots,
            predictor_error=self.predictor_error,
            recordings=Recordings(
                acceptance_trace=self.acceptance_trace,
                arrival_trace=self.arrival_trace,
                lengths=self.lengths,
                scaling=self.arrival_scaling,
                prompts=None if self.env == "live" else self.prompts,
            ),
            reference=self.reference,
        )

    def _live(self, report: Any) -> Any:
        """Real models to evaluate on."""
        try:
            from laps_env.live.backend import LiveBackend
            from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET, load_pair
        except ImportError as error:
            raise ValueError(
                f"env live: expected the extra 'live' (torch, ...), got {error}"
            ) from None
        pair = load_pair(
            self.target or DEMO_TARGET,
            self.draft or DEMO_DRAFT,
            device=self.device,
            dtype=self.dtype,
        )
        return LiveBackend(
            pair,
            keep=None if report is None else report.add,
            clock=self.clock,
            acceptance=self.acceptance,
            max_new_tokens=self.max_new_tokens,
            step_log=self.step_log,
            **({} if self.prompts is None else {"prompts": (self.prompts,)}),
        )

    def _write(self, results: Any, outs: Outputs) -> None:
        """The results file, the table and the picture, where they are asked for."""
        if outs.json is not None:
            from laps_env.evaluation.results import write_results

            write_results(results, outs.json)
        if outs.export is not None:
            from laps_env.report.export import export_rows

            export_rows(results, outs.export)
        if outs.plot is not None:
            from laps_env.report.picture import draw_picture

            draw_picture(results, outs.plot)


@dataclass(frozen=True)
class Outputs:
    """Where the files of an evaluation go; None where there is none."""

    json: Path | None
    export: Path | None
    plot: Path | None
    report: Path | None


def _usual_picture(results: Path) -> Path | None:
    """The picture beside a results file, if one can be drawn."""
    from laps_env.report.picture import check_picture

    picture = results.with_suffix(".png")
    try:
        check_picture(picture)
    except ValueError as reason:
        print(f"no {reason}", file=sys.stderr)
        return None
    return picture
