"""The options of `evaluate`: their defaults, texts and parsers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from laps_env.evaluation.grid import TEST_SEEDS, Grid
from laps_env.evaluation.recordings import Recordings
from laps_env.policies import list_policies
from laps_env.policies.base.registry import LEARNED, RULES
from laps_env.report.picture import check_picture
from laps_env.workloads.predictors import RECORDED
from laps_env.workloads.scenarios import AS_RECORDED, list_scenarios


@dataclass(frozen=True)
class Option:
    """What the command line says about an option, and how its text is read."""

    text: str
    parse: Callable[[str], Any] = str


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_load(text: str) -> float | str:
    """A load from the command line.

    Raises:
        argparse.ArgumentTypeError: neither a number nor "recorded".
    """
    try:
        return text if text == AS_RECORDED else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a number > 0 or {AS_RECORDED!r}, got {text!r}"
        ) from None


def _loads(text: str) -> tuple[float | str, ...]:
    return tuple(parse_load(part) for part in _names(text))


def _predictor_error(text: str) -> float | Literal["recorded"]:
    return RECORDED if text == RECORDED else float(text)


def _policies(text: str) -> tuple[str, ...]:
    return tuple(list_policies()) if text == "all" else _names(text)


_TUNED = [f"{name}_tuned" if f"{name}_tuned" in list_policies() else name for name in RULES]

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
    seed: Annotated[int, Option("first seed of the final set (default: 0)", int)] = TEST_SEEDS.start
    acceptance_trace: Annotated[
        str | None, Option("recorded acceptances: .safetensors, or Spec-Bench rounds .jsonl(.gz)")
    ] = None
    arrival_trace: Annotated[
        str | None,
        Option(
            "recorded arrivals: Azure or BurstGPT .csv, Mooncake .jsonl(.gz); see import_trace.py"
        ),
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
    parquet: Annotated[
        Path | None, Option("the rows as a Parquet table too, for pandas and the like", Path)
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
    "scenario": ("chat-serial-135m", "chat-batch8-135m"),
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
