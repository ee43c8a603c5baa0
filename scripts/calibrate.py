"""Measure what rounds of a real engine cost on this device, and fit the replay's cost model to it.

The result is a JSON file that `laps_env.sim.calibration_file.read_calibration` turns into a cost
model; with --plot, also a picture of measured against fitted times. What is timed and how the
constants
are told apart: laps_env/live/calibration.py. Give the device to this script alone while it runs.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laps_env.live.engine.engine import Engine, Stopping
from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET, Pair, load_pair
from laps_env.live.measure.calibration import (
    TERMS,
    Grid,
    Rates,
    Sample,
    compare,
    errors,
    fit,
    measure,
)
from laps_env.live.measure.machine import describe
from laps_env.report.picture import check_picture
from laps_env.sim.calibration_file import write_calibration
from laps_env.utils.checks import check_count
from laps_env.utils.files import check_output, write_beside

BATCHES = (1, 2, 4, 8)
GPU_BATCHES = (*BATCHES, 16, 32)
SEED = 0


def grid_rows(samples: list[Sample]) -> list[dict[str, Any]]:
    """The samples as they are written."""
    return [{**asdict(s), "work": s.work._asdict()} for s in samples]


def draw(samples: list[Sample], rates: Rates, path: Path) -> None:
    """A panel per term: measured against fitted; on the line they are the same."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    panels = figure.subplots(2, 3).flat
    seen = [s for s in samples if not s.held_out]
    unseen = [s for s in samples if s.held_out]
    for panel, name in zip(panels, TERMS, strict=True):
        for group, label, marker in ((seen, "fitted on", "o"), (unseen, "held out", "x")):
            measured, fitted = compare(group, rates).get(name, (np.array([]), np.array([])))
            panel.loglog(measured / 1e6, fitted / 1e6, marker, ms=4, alpha=0.7, label=label)
        ends = panel.get_xlim()
        panel.plot(ends, ends, color="0.5", lw=1, zorder=0)
        panel.set_title(name, fontsize=10)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(LogFormatter())
            axis.set_minor_formatter(LogFormatter(minor_thresholds=(1.2, 0.4)))
        panel.tick_params(which="both", labelsize=8)
    figure.supxlabel("measured, ms", fontsize=10)
    figure.supylabel("fitted, ms", fontsize=10)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    image = io.BytesIO()
    figure.savefig(image, format=path.suffix[1:], dpi=130)
    write_beside(path, [image.getvalue()])


def run(pair: Pair, grid: Grid, out: Path, plot: Path | None) -> None:
    """Measure, fit, write, print."""

    def make_engine(slots: int, length: int) -> Engine:
        return pair.engine(slots=slots, length=length, stopping=Stopping())

    samples = measure(make_engine, grid, np.random.default_rng(SEED), partial(print, flush=True))
    rates, apart = fit(samples), fit(samples, one_token_rate=False)
    document = {
        **describe(pair),
        "cost": rates.cost_model(),
        "errors": errors(samples, rates),
        # what the formula's one rate for verified and prefilled tokens costs
        "two_token_rates": {
            "verify_token_ns": apart.verify,
            "prefill_token_ns": apart.prefill,
            "errors": errors(samples, apart),
        },
        "repeats": grid.repeats,
        "grid": grid_rows(samples),
    }
    write_calibration(out, document)
    if plot:
        draw(samples, rates, plot)
    for name, value in asdict(document["cost"]).items():
        if name != "source":
            print(f"{name:20} {value:16,.1f}")
    print("\nheld-out error      mean     p90   with two token rates: mean     p90")
    for name, error in document["errors"].items():
        other = document["two_token_rates"]["errors"][name]
        print(
            f"{name:15} {error['mean']:8.1%}{error['p90']:8.1%}"
            f"{other['mean']:29.1%}{other['p90']:8.1%}"
        )
    print(f"\nwritten: {out}")


def numbers(text: str) -> tuple[int, ...]:
    """Integers between commas."""
    return tuple(int(part) for part in text.split(","))


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default=str(DEMO_TARGET), help="folder or hub model")
    parser.add_argument("--draft", default=str(DEMO_DRAFT), help="folder or hub model")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16")
    parser.add_argument("--out", type=Path, default=Path("calibration.json"))
    parser.add_argument("--plot", type=Path, help="measured against fitted, .png, .pdf or .svg")
    parser.add_argument("--batches", type=numbers, help="1,2,4,8; on a GPU also 16,32")
    parser.add_argument("--draft-lengths", type=numbers, default=(0, 1, 2, 4, 8))
    parser.add_argument("--contexts", type=numbers, default=(64, 256, 768))
    parser.add_argument("--repeats", type=int, default=5, help="means are over so many")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    arguments = parser.parse_args(argv)
    try:
        check_output(arguments.out)
        if arguments.plot:
            check_output(arguments.plot)
            check_picture(arguments.plot)
        if arguments.threads is not None:
            check_count("threads", arguments.threads)
            torch.set_num_threads(arguments.threads)
        lengths, contexts = arguments.draft_lengths, arguments.contexts
        grid = Grid(arguments.batches or BATCHES, lengths, contexts, arguments.repeats)
        pair = load_pair(
            arguments.target, arguments.draft, device=arguments.device, dtype=arguments.dtype
        )
    except ValueError as reason:
        parser.error(str(reason))
    if arguments.batches is None and pair.target.device.type == "cuda":
        grid = replace(grid, batches=GPU_BATCHES)
    run(pair, grid, arguments.out, arguments.plot)


if __name__ == "__main__":
    main()
