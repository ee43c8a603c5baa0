"""The command `evaluate`: progress, tables, files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from laps_env.cli.messages import errors_as_messages
from laps_env.cli.options import Options, options_from
from laps_env.evaluation.check import check_results
from laps_env.evaluation.finished_runs import Journal
from laps_env.evaluation.results import Results, write_results
from laps_env.evaluation.runner import Evaluation
from laps_env.policies.base.rule_from_file import file_of, is_rule_file
from laps_env.report.parquet import check_parquet, write_parquet
from laps_env.report.picture import check_picture, draw_picture
from laps_env.report.tables import results_text
from laps_env.report.write import LiveReport, steps_of, write_report
from laps_env.utils.files import check_output, check_output_folder


def evaluate(options: Options) -> None:
    """Run, print the tables, write the files.

    Raises:
        OSError, ValueError: options or recordings that cannot be used; nothing is written then.
    """
    if options.env not in ("replay", "live"):
        raise ValueError(f"env: expected replay or live, got {options.env!r}")
    if options.env == "live":
        if options.plot is not None:
            raise ValueError(f"plot: expected none with env live, got {options.plot}")
        evaluate_live(options)
        return
    _check_outputs(options)
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"jobs: expected an integer >= 1, got {options.jobs}")
    grid = options.grid()
    name = _journal_of(options.json)
    journal = Journal(name)
    evaluation = Evaluation(grid, journal)
    try:
        _run(evaluation, options.jobs, resumable=name is not None)
    finally:
        journal.close()
    results = evaluation.results()
    print(results_text(results))
    _write_results(results, options)
    if name is not None:
        journal.remove()
    if options.plot is not None:
        draw_picture(results, options.plot)
    index = None
    if options.report is not None:
        with _progress(steps_of(results), 0, "step of the report") as advance:
            index = write_report(results, options.report, advance)
    _name_files(results=options.json, table=options.parquet, picture=options.plot, report=index)


def evaluate_live(options: Options) -> None:
    """Run on real models, print the table and an answer, write the file where one is named.

    Raises:
        OSError, ValueError: options or models that cannot be used; nothing is written then.
    """
    try:
        from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET, load_pair
        from laps_env.live.backend import LiveBackend
    except ImportError as error:
        raise ValueError(f"env live: expected the extra 'live' (torch, ...), got {error}") from None
    _check_outputs(options)
    prompts = {} if options.prompts is None else {"prompts": (options.prompts,)}
    grid = replace(options, prompts=None).grid()
    report = None if options.report is None else LiveReport(options.report)
    backend = LiveBackend(
        load_pair(
            options.target or DEMO_TARGET,
            options.draft or DEMO_DRAFT,
            device=options.device,
            dtype=options.dtype,
        ),
        keep=None if report is None else report.add,
        clock=options.clock,
        max_new_tokens=options.max_new_tokens,
        **prompts,
    )
    evaluation = Evaluation(grid, backend=backend)
    _run(evaluation, 1, resumable=False)
    results = evaluation.results()
    print(results_text(results))
    answer = results.texts[0].texts[0]
    print(f"\nthe first of {options.requests} answers: {answer[:300]!r}")
    _write_results(results, options)
    index = None if report is None else report.write(results)
    _name_files(
        **{"results with all texts": options.json, "table": options.parquet, "report": index}
    )


def check(path: Path, sample: int) -> bool:
    """Say of a sample of a results file whether it holds.

    Raises:
        OSError, ValueError: no results file that this code can run again.
    """
    checks = []
    for done in check_results(path, sample):
        checks.append(done)
        if not done.holds:
            print(f"{done.row}: expected mean and p99 latency {done.claimed} s, got {done.found} s")
    held = sum(done.holds for done in checks)
    print(f"{path}: {held} of {len(checks)} workloads that were run again hold, bit for bit")
    return held == len(checks)


def _check_outputs(options: Options) -> None:
    """Whether all files can be written, before hours are spent on their content."""
    named = (options.json, _journal_of(options.json), options.parquet, options.plot)
    outputs = [path for path in named if path is not None]
    own = [file_of(name) for name in options.policies if is_rule_file(name)]
    for path in outputs:
        check_output(path, options.acceptance_trace, options.arrival_trace, options.prompts, *own)
    if options.report is not None:
        check_output_folder(options.report)
    if len({path.resolve() for path in outputs}) < len(outputs):
        names = ", ".join(map(str, outputs))
        raise ValueError(f"json, parquet, plot: expected a file for each, got {names}")
    if options.parquet is not None:
        check_parquet()
    if options.plot is not None:
        check_picture(options.plot)


def _journal_of(results: Path | None) -> Path | None:
    """Where finished runs are kept until the results file is written; nowhere without one."""
    return None if results is None else results.with_name(f"{results.name}.journal")


def _write_results(results: Results, options: Options) -> None:
    """The results file and the table, where they are asked for."""
    if options.json is not None:
        write_results(results, options.json)
    if options.parquet is not None:
        write_parquet(results, options.parquet)


def _name_files(**written: Path | None) -> None:
    named = [f"{what}: {path}" for what, path in written.items() if path is not None]
    if named:
        print("\n" + ", ".join(named))


def _run(evaluation: Evaluation, jobs: int | None, resumable: bool) -> None:
    total, resumed = evaluation.total_runs, evaluation.finished_runs
    if resumed:
        print(f"{resumed} of {total} runs taken from the journal", file=sys.stderr)
    try:
        with _progress(total, resumed) as advance:
            evaluation.run(jobs, advance)
    except KeyboardInterrupt:
        outlook = ": the same command goes on there" if resumable else ", which are not kept"
        finished = evaluation.finished_runs
        print(f"interrupted with {finished} of {total} runs finished{outlook}", file=sys.stderr)
        raise SystemExit(130) from None


@contextmanager
def _progress(total: int, resumed: int, unit: str = "run") -> Iterator[Callable[[int], Any]]:
    """Something to call with the number of runs done since: tqdm's bar, or a plain counter."""
    try:
        from tqdm import tqdm
    except ImportError:
        done = resumed

        def count(runs: int) -> None:
            nonlocal done
            done += runs
            print(f"\r{done} of {total} {unit}s", end="", file=sys.stderr, flush=True)

        yield count
        print(file=sys.stderr)
    else:
        with tqdm(total=total, initial=resumed, unit=unit, mininterval=0.5) as bar:
            yield bar.update


def run_command(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """The command with its errors as messages: status 2, and what was expected on stderr."""
    given = {f.name: getattr(arguments, f.name) for f in fields(Options) if f.name in arguments}
    with errors_as_messages(parser):
        if arguments.check is None:
            evaluate(options_from(given, arguments.quick))
        elif not check(arguments.check, arguments.sample):
            parser.exit(1)
