"""The command `evaluate`: options, progress, table, results file, picture."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from laps_env.checks import check_positive
from laps_env.evaluation.check import check_results
from laps_env.evaluation.grid import FINAL_SEEDS, Grid
from laps_env.evaluation.journal import Journal
from laps_env.evaluation.picture import check_picture, draw_picture
from laps_env.evaluation.recordings import Recordings
from laps_env.evaluation.report import tables
from laps_env.evaluation.runner import Evaluation
from laps_env.files import check_output, write_beside
from laps_env.report import steps_of, write_report
from laps_env.scenarios import AS_RECORDED, list_scenarios
from laps_env.workloads.prediction import RECORDED
from policies import LEARNED, SPECS, list_policies


@dataclass(frozen=True)
class Option:
    """What the command line says about an option, and how its text is read."""

    text: str
    parse: Callable[[str], Any] = str


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _loads(text: str) -> tuple[float | str, ...]:
    try:
        return tuple(part if part == AS_RECORDED else float(part) for part in _names(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers > 0 or {AS_RECORDED!r} with commas, got {text!r}"
        ) from None


def _predictor_error(text: str) -> float | Literal["recorded"]:
    return RECORDED if text == RECORDED else float(text)


def _policies(text: str) -> tuple[str, ...]:
    return tuple(list_policies()) if text == "all" else _names(text)


_TUNED = [f"{name}_tuned" if f"{name}_tuned" in list_policies() else name for name in SPECS]

#: Each rule once, tuned where it can be; what was learned; LAPS-SD as published and with SmartSpec.
DEFAULT_POLICIES = (*_TUNED, *LEARNED, "laps_sd", "laps_sd_tuned+smartspec")


@dataclass(frozen=True)
class Options:
    """The options of the command, ``--name``; the texts are their documentation."""

    policies: Annotated[
        tuple[str, ...],
        Option(
            "names with commas, also folders of trained models and rules of one's own "
            "(rule.py:spec), or 'all' (default: each "
            "rule once, tuned where it has parameters, the learned ones, and laps_sd, "
            "laps_sd_tuned+smartspec)",
            _policies,
        ),
    ] = DEFAULT_POLICIES
    scenario: Annotated[
        tuple[str, ...], Option("names with commas (default: all named scenarios)", _names)
    ] = tuple(list_scenarios())
    loads: Annotated[
        tuple[float | str, ...],
        Option("shares of saturation with commas, or 'recorded' (default: 0.7,0.9)", _loads),
    ] = (0.7, 0.9)
    episodes: Annotated[int, Option("workloads per scenario and load (default: 20)", int)] = 20
    requests: Annotated[int, Option("requests per workload (default: 1000)", int)] = 1000
    slots: Annotated[int, Option("rows of the request table (default: 64)", int)] = 64
    predictor_error: Annotated[
        float | Literal["recorded"] | None,
        Option(
            "sd of log(predicted / true length), or 'recorded' (default: recorded where requests "
            "bring predictions, else 0.5)",
            _predictor_error,
        ),
    ] = None
    seed: Annotated[int, Option("first seed of the final set (default: 0)", int)] = (
        FINAL_SEEDS.start
    )
    acceptance_trace: Annotated[
        str | None, Option("recorded acceptances: .atrace, or Spec-Bench rounds .jsonl(.gz)")
    ] = None
    arrival_trace: Annotated[
        str | None, Option("recorded arrivals: Azure .csv, or Mooncake .jsonl(.gz)")
    ] = None
    lengths: Annotated[str, Option("where lengths come from: acceptance (default) or arrivals")] = (
        "acceptance"
    )
    prompts: Annotated[
        str | None, Option("Spec-Bench questions, to estimate prompt lengths not recorded")
    ] = None
    env: Annotated[str, Option("replay (default), or live: real models, see --target")] = "replay"
    target: Annotated[
        str | None, Option("live: folder or hub name of the target (default: the demo pair)")
    ] = None
    draft: Annotated[
        str | None, Option("live: folder or hub name of the draft, or prompt-lookup")
    ] = None
    device: Annotated[str, Option("live: auto (default), cpu, cuda, ...")] = "auto"
    dtype: Annotated[str, Option("live: auto (default), float32, bfloat16, float16")] = "auto"
    clock: Annotated[str, Option("live: measured (default) or calibrated")] = "measured"
    max_new_tokens: Annotated[int, Option("live: most output tokens (default: 128)", int)] = 128
    json: Annotated[
        Path | None, Option("results file (default: results.json; none with --quick)", Path)
    ] = None
    plot: Annotated[
        Path | None, Option("picture .png, .pdf or .svg (default: beside the results file)", Path)
    ] = None
    report: Annotated[
        Path | None,
        Option("folder of the HTML report (default: report, where --json is not given)", Path),
    ] = None
    jobs: Annotated[int | None, Option("threads (default: one per processor)", int)] = None

    def grid(self) -> Grid:
        """What to run."""
        return Grid(
            policies=self.policies,
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
                lengths=self.lengths,  # type: ignore[arg-type]  # checked there
                prompts=self.prompts,
            ),
        )


#: What ``--quick`` puts in place of the defaults: seconds, and no files.
QUICK: dict[str, Any] = {
    "policies": ("fcfs", "sjf", "las_tuned", "laps_sd_tuned", "gittins_tuned", "oracle_srpt"),
    "scenario": ("chat-serial", "chat-batch8"),
    "loads": (0.9,),
    "episodes": 8,
    "requests": 300,
}


#: What ``--env live`` puts in place of the defaults: a real server takes minutes, not seconds.
LIVE: dict[str, Any] = {
    "policies": ("fcfs", "laps_sd", "laps_sd_tuned"),
    "scenario": ("demo",),
    "loads": (0.9,),
    "episodes": 1,
    "requests": 16,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """An argument per field of `Options`, absent unless given, and ``--quick``."""
    for name, kind in get_type_hints(Options, include_extras=True).items():
        (option,) = kind.__metadata__
        parser.add_argument(
            "--" + name.replace("_", "-"),
            dest=name,
            type=option.parse,
            help=option.text,
            default=argparse.SUPPRESS,
        )
    parser.add_argument(
        "--quick", action="store_true", help="a small grid in seconds; prints a table, no files"
    )
    parser.add_argument(
        "--check",
        type=Path,
        metavar="RESULTS",
        help="run a sample of a results file again instead, and say whether it holds",
    )
    parser.add_argument("--sample", type=int, default=20, help="of --check (default: 20 workloads)")


def options_from(given: dict[str, Any], quick: bool) -> Options:
    """What was given, over the defaults or over those of ``--quick``."""
    if quick:
        return Options(**{**QUICK, **given})
    if given.get("env") == "live":
        return Options(**{**LIVE, **given})
    if "json" not in given:
        given["json"] = Path("results.json")
        given.setdefault("report", Path("report"))
    if "plot" not in given:
        try:
            given["plot"] = given["json"].with_suffix(".png")
            check_picture(given["plot"])
        except ValueError as reason:
            print(f"no {reason}", file=sys.stderr)
            given["plot"] = None
    return Options(**given)


def evaluate(options: Options) -> None:
    """Run, print the tables, write the files.

    Raises:
        OSError, ValueError: options or recordings that cannot be used; nothing is written then.
    """
    if options.env not in ("replay", "live"):
        raise ValueError(f"env: expected replay or live, got {options.env!r}")
    if options.env == "live":
        evaluate_live(options)
        return
    outputs = [path for path in (options.json, options.plot) if path is not None]
    for path in outputs:
        check_output(path)
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise ValueError(f"json, plot: expected two files, got {options.json} for both")
    if options.plot is not None:
        check_picture(options.plot)
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"jobs: expected an integer >= 1, got {options.jobs}")
    grid = options.grid()
    name = None if options.json is None else options.json.with_name(f"{options.json.name}.journal")
    journal = Journal(name)
    evaluation = Evaluation(grid, journal)
    try:
        _run(evaluation, options.jobs, resumable=name is not None)
    finally:
        journal.close()
    results = evaluation.results()
    print(tables(results))
    if options.json is not None:
        text = json.dumps(results, indent=1, allow_nan=False) + "\n"
        write_beside(options.json, [text.encode()])
        journal.remove()
    if options.plot is not None:
        draw_picture(results, options.plot)
    index = None
    if options.report is not None:
        with _progress(steps_of(results), 0, "step of the report") as advance:
            index = write_report(results, options.report, advance)
    written = {"results": options.json, "picture": options.plot, "report": index}
    named = [f"{what}: {path}" for what, path in written.items() if path is not None]
    if named:
        print("\n" + ", ".join(named))


def evaluate_live(options: Options) -> None:
    """Run on real models, print the table and an answer, write the file where one is named.

    Raises:
        OSError, ValueError: options or models that cannot be used; nothing is written then.
    """
    try:
        from laps_env.live.evaluation import LiveGrid
        from laps_env.live.loading import DEMO_DRAFT, DEMO_TARGET, load_pair
    except ImportError as error:
        raise ValueError(f"env live: expected the extra 'live' (torch, ...), got {error}") from None
    if options.json is not None:
        check_output(options.json)
    grid = LiveGrid(
        policies=options.policies,
        scenarios=options.scenario,
        loads=tuple(check_positive("load", load) for load in options.loads),
        episodes=options.episodes,
        num_requests=options.requests,
        first_seed=options.seed,
        pair=load_pair(
            options.target or DEMO_TARGET,
            options.draft or DEMO_DRAFT,
            device=options.device,
            dtype=options.dtype,
        ),
        server={
            **({} if options.prompts is None else {"prompts": (options.prompts,)}),
            "clock": options.clock,
            "max_new_tokens": options.max_new_tokens,
            "slots": options.slots,
        },
    )
    results = grid.run(report=lambda done: print(f"finished: {done}", file=sys.stderr))
    print(tables(results))
    answer = results["texts"][0]["texts"][0]
    print(f"\nthe first of {options.requests} answers: {answer[:300]!r}")
    if options.json is not None:
        text = json.dumps(results, indent=1, allow_nan=False) + "\n"
        write_beside(options.json, [text.encode()])
        print(f"\nresults with all texts: {options.json}")


def check(path: Path, sample: int) -> bool:
    """Say of a sample of a results file whether it holds.

    Raises:
        OSError, ValueError: no results file that this code can run again.
    """
    checks = []
    for done in check_results(path, sample):
        checks.append(done)
        if not done.holds:
            print(f"{done.row}: expected mean latency {done.claimed!r} s, got {done.found!r} s")
    held = sum(done.holds for done in checks)
    print(f"{path}: {held} of {len(checks)} workloads that were run again hold, bit for bit")
    return held == len(checks)


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
    try:
        if arguments.check is not None:
            if not check(arguments.check, arguments.sample):
                parser.exit(1)
            return
        evaluate(options_from(given, arguments.quick))
    except (OSError, ValueError, MemoryError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted\n")
