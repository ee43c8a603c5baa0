"""How closely the replay predicts the live server, as a page and as raw rows.

What is compared: `laps_env.live.measure.fidelity`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, TypedDict

from laps_env.live.engine.loading import Pair
from laps_env.live.measure.agreement import METRICS, Error, Order, compare_metrics, compare_order
from laps_env.live.measure.calibrate import grid_rows, samples_of
from laps_env.live.measure.fidelity import CELLS_PER_TURN, TURN_S, Findings, Repetition, run
from laps_env.live.measure.machine import describe
from laps_env.live.measure.side_by_side import Settings
from laps_env.report.tables import markdown_table
from laps_env.sim import SIMULATOR_VERSION
from laps_env.sim.costs import CostModel
from laps_env.utils.journal import Journal

#: Largest relative errors by kind of device.
TARGETS = {
    "cpu": {"mean_latency_s": 0.06, "p99_latency_s": 0.12},
    "cuda": {"mean_latency_s": 0.03, "p99_latency_s": 0.05},
}

NAMES = {
    "mean_latency_s": "mean latency",
    "p50_latency_s": "p50 latency",
    "p99_latency_s": "p99 latency",
    "mean_ttft_s": "mean time to first token",
    "makespan_s": "makespan",
}


@dataclass(frozen=True)
class Result:
    """Everything that the page tells."""

    about: dict[str, Any]
    command: str
    settings: Settings
    findings: Findings
    errors: list[Error]
    orders: list[Order]

    @property
    def mismatches(self) -> int:
        """Differences under the calibrated clock."""
        return sum(row.mismatches for row in self.findings.exact)

    @property
    def targets(self) -> dict[str, float]:
        """Largest relative errors on this kind of device."""
        return TARGETS[self.about["device"]["type"]]

    def worst(self, metric: str) -> Error:
        """The row of a metric with the largest error."""
        rows = [row for row in self.errors if row.metric == metric]
        return max(rows, key=lambda row: abs(row.error))


class Repeated(TypedDict):
    """A line of the journal: a repetition."""

    arrivals: dict[str, Any]
    samples: list[dict[str, Any]]
    plays: dict[str, dict[str, Any]]


def open_journal(path: Path, pair: Pair, settings: Settings) -> Journal:
    """The journal of a comparison.

    Raises:
        OSError, ValueError: A file that is no journal of this comparison, or cannot be used.
    """
    about = describe(pair)
    job = {
        "job": "fidelity",
        "simulator": SIMULATOR_VERSION,
        "device": about["device"],
        "models": about["models"],
    }
    return Journal(path, job | asdict(settings), Repeated)


def compare(
    pair: Pair,
    settings: Settings,
    repetitions: int,
    journal: Journal,
    command: str,
    report: Callable[[str], None],
) -> Result:
    """Measure what the journal does not hold, and compare.

    Args:
        pair: Models; in float32 where acceptance is live.
        settings: Settings of what is served.
        repetitions: Repetitions of the live episodes, >= 2.
        journal: Journal of this comparison.
        command: Command that the page names.
        report: Callback told of each step.

    Raises:
        ValueError: Settings that cannot be served.
    """
    findings = run(
        pair,
        settings,
        repetitions,
        done=[_read_repetition(row) for row in journal.entries],
        keep=lambda repetition: journal.add(_row_of(repetition)),
        report=report,
    )
    live: dict[str, Sequence[dict[str, float]]] = {
        p: [repetition.plays[p] for repetition in findings.repetitions] for p in settings.policies
    }
    replay: dict[str, Sequence[dict[str, float]]] = {**findings.replay}
    errors, orders = compare_metrics(live, replay), compare_order(live, replay)
    return Result(describe(pair), command, settings, findings, errors, orders)


def _row_of(repetition: Repetition) -> dict[str, Any]:
    return {
        "arrivals": asdict(repetition.arrivals),
        "samples": grid_rows(repetition.samples),
        "plays": repetition.plays,
    }


def _read_repetition(row: dict[str, Any]) -> Repetition:
    return Repetition(CostModel(**row["arrivals"]), samples_of(row["samples"]), row["plays"])


def verdicts(result: Result) -> str:
    """Which targets are met, in words."""
    rounds = sum(row.rounds for row in result.findings.exact)
    items = [
        f"**Calibrated clock: {met(result.mismatches == 0)}.** {result.mismatches} differences in "
        f"{rounds} rounds; the target is none."
    ]
    for metric, most in result.targets.items():
        row = result.worst(metric)
        items.append(
            f"**{NAMES[metric].capitalize()}: {met(abs(row.error) <= most)}.** The largest error "
            f"is {row.error:+.1%} (`{row.policy}`), the target at most {most:.0%} on this kind of "
            f"device; the live mean itself is uncertain by {row.noise_of_mean:.1%}."
        )
    decided = [row for row in result.orders if row.decided]
    same = sum(row.same for row in decided)
    verdict = met(same == len(decided)) if decided else "nothing to compare"
    items.append(
        f"**Order of the policies: {verdict}.** {len(decided)} of {len(result.orders)} pairs "
        f"differ live by more than their noise; the replay has {same} of these in the same order, "
        "the target is all."
    )
    return bullets(items)


def bullets(items: Iterable[str]) -> str:
    """Markdown list of wrapped items."""
    return "\n".join(fill(f"- {item}", 100, subsequent_indent="  ") for item in items)


def met(is_met: bool) -> str:
    """Verdict on a target."""
    return "met" if is_met else "missed"


def exact_table(result: Result) -> str:
    """Table of the calibrated clock."""
    return markdown_table(
        (
            "policy",
            "steps",
            "that differ",
            "rounds",
            "that differ",
            "tokens",
            "metrics that differ",
        ),
        (
            (
                f"`{row.policy}`",
                row.steps,
                row.steps_apart,
                row.rounds,
                row.rounds_apart,
                row.tokens,
                row.metrics_apart,
            )
            for row in result.findings.exact
        ),
    )


def error_table(result: Result, metric: str) -> str:
    """Table of a metric under the measured clock."""
    return markdown_table(
        ("policy", "live, s", "noise", "of the mean", "replay, s", "error"),
        (
            (
                f"`{row.policy}`",
                f"{row.live:.3f}",
                f"{row.noise:.1%}",
                f"{row.noise_of_mean:.1%}",
                f"{row.replay:.3f}",
                f"{row.error:+.1%}",
            )
            for row in result.errors
            if row.metric == metric
        ),
    )


def order_table(result: Result) -> str:
    """Table of the pairs of policies."""
    return markdown_table(
        ("pair", "live, s", "its standard error, s", "replay, s", "live order", "replay"),
        (
            (
                f"`{row.first}` - `{row.second}`",
                f"{row.live:+.3f}",
                f"{row.standard_error:.3f}",
                f"{row.replay:+.3f}",
                "decided" if row.decided else "within noise",
                ("same" if row.same else "other") if row.decided else "",
            )
            for row in result.orders
        ),
    )


def report(result: Result) -> str:
    """Page in Markdown."""
    settings, repetitions = result.settings, len(result.findings.repetitions)
    metrics = "\n\n".join(
        f"{NAMES[metric].capitalize()}:\n\n{error_table(result, metric)}" for metric in METRICS
    )
    aim = (
        f"How closely the replay predicts the live server: the same {settings.num_requests} "
        "requests under the same policies on both."
    )
    clock = (
        f"Live and replay: means over {repetitions} repetitions. Noise: live against live, the "
        "standard deviation over repetitions, and the standard error of the mean, relative. Error: "
        "replay / live - 1."
    )
    return f"""# Live against replay

{fill(aim, 100)}

{fill(measured_where(result.about), 100)} Written by

<!-- not run: the demo's models -->
```sh
{result.command}
```

## Targets

{verdicts(result)}

## How

{bullets(method(settings, result.findings))}

## Calibrated clock

Live and replay with the same cost model. A step shows an observation, a reward, a duration and a
mask, all compared bit for bit; a round, counted once for each request in it, is compared by the
tokens that it accepted. The metrics are those below.

{exact_table(result)}

## Measured clock

{fill(clock, 100)}

{metrics}

## Order

Mean latency of the first less that of the second; the standard error is paired over repetitions,
and the live order counts as decided outside the 95 % interval of Student's t.

{order_table(result)}
"""


def measured_where(about: dict[str, Any]) -> str:
    """Device, software and models in words."""
    device, software = about["device"], about["software"]
    target, draft = (about["models"][role] for role in ("target", "draft"))
    return (
        f"Measured {about['created']} on {device['name']} ({device['type']}; {device['cores']} "
        f"cores, {device['threads']} threads of torch) with Python {software['python']}, torch "
        f"{software['torch']}, transformers {software['transformers']}, simulator version "
        f"{SIMULATOR_VERSION}. Models: {target} with {draft}, {about['dtype']}, greedy."
    )


def method(settings: Settings, findings: Findings) -> list[str]:
    """How it was measured, an item each."""
    grid, server = findings.grid, settings.server()
    limit = f", at most {settings.max_new_tokens} output tokens"
    recorded = settings.acceptance == "recorded"
    return [
        "All passes are real; how much of a draft counts as accepted, and where a text ends, is "
        "that of the scenario's workload on both sides, and prompts are random tokens."
        if recorded
        else "The prompts are recorded once: acceptance at every position of each text, at "
        f"{findings.corrected} of them by a round instead of the pass over the text (near-ties).",
        f"Scenario `{settings.scenario}`: batch {server.batch_size}, draft length "
        f"{server.draft_length}{'' if recorded else limit}. Arrivals are "
        f"fixed times, the same for all: {settings.load:g} of {findings.saturation_rps:.3g} "
        "requests per second, the saturation of the replay under the first calibration.",
        "A repetition is a live episode of every policy under the measured clock, and a "
        f"calibration among them: in turns, each episode advances by {TURN_S:g} s, then "
        f"{CELLS_PER_TURN} cells of the calibration's grid are timed, so that a machine whose "
        f"speed drifts does so for all; {len(findings.repetitions)} repetitions. A cell is a "
        f"prefill and a round on random prompts (batches {words(grid.batches)}; draft length "
        f"{words(grid.draft_lengths)}; contexts around {words(grid.contexts)}); plain means count. "
        "The replay predicts a repetition's episodes with the cost model that is fitted to its "
        "calibration; the live episodes are not looked at.",
        "A live round takes what the device took for caches, draft and verification. What the "
        "scheduler takes between rounds is not counted.",
    ]


def words(numbers: Iterable[int]) -> str:
    """Numbers with commas."""
    return ", ".join(map(str, numbers))


def raw(result: Result) -> dict[str, Any]:
    """Content of the file of raw rows."""
    findings = result.findings
    return {
        "simulator": SIMULATOR_VERSION,
        **result.about,
        "command": result.command,
        # of a file its name: where it lay on this machine is nobody else's business
        "settings": asdict(result.settings)
        | {"prompts": [Path(name).name for name in result.settings.prompts]},
        "saturation_rps": findings.saturation_rps,
        "corrected_positions": findings.corrected,
        "captures": findings.captures,
        "exact": [asdict(row) for row in findings.exact],
        "repetitions": [_row_of(repetition) for repetition in findings.repetitions],
        "replay": findings.replay,
        "errors": [asdict(row) for row in result.errors],
        "orders": [asdict(row) for row in result.orders],
    }
