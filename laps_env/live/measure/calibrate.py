"""A calibration from beginning to end: measured, fitted, written, drawn, told.

The result is a JSON file that `laps_env.sim.calibration_file.read_calibration` turns into a cost
model. What is timed: `laps_env.live.measure.calibration`; how the constants are told apart:
`laps_env.live.measure.fitting`.
"""

from __future__ import annotations

import io
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from laps_env.live.engine.engine import Engine
from laps_env.live.engine.loading import Pair
from laps_env.live.measure.calibration import Grid, Sample, measure
from laps_env.live.measure.fitting import TERMS, Rates, compare, errors, fit, with_padding
from laps_env.live.measure.machine import describe
from laps_env.sim.calibration_file import write_calibration
from laps_env.sim.costs import Work
from laps_env.utils.files import write_beside

SEED = 0


def grid_rows(samples: list[Sample]) -> list[dict[str, Any]]:
    """The samples as they are written."""
    return [{**asdict(s), "work": s.work._asdict(), "padded": s.padded._asdict()} for s in samples]


def samples_of(rows: list[dict[str, Any]]) -> list[Sample]:
    """The samples of `grid_rows`."""
    return [
        Sample(**{**row, "work": Work(**row["work"]), "padded": Work(**row["padded"])})
        for row in rows
    ]


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


def calibrate(pair: Pair, grid: Grid, out: Path, plot: Path | None) -> None:
    """Measure, fit, write, print."""

    def make_engine(slots: int, length: int) -> Engine:
        return pair.engine(slots=slots, length=length)

    samples = measure(make_engine, grid, np.random.default_rng(SEED), partial(print, flush=True))
    rates, apart = fit(samples), fit(samples, one_token_rate=False)
    padded = with_padding(samples)
    padded_rates = fit(padded)
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
        # and what it costs that it does not know to which shapes passes are padded
        "padded_work": {"rates": padded_rates._asdict(), "errors": errors(padded, padded_rates)},
        "captures": sum(s.captures for s in samples),
        "repeats": grid.repeats,
        "grid": grid_rows(samples),
    }
    write_calibration(out, document)
    if plot:
        draw(samples, rates, plot)
    for name, value in asdict(document["cost"]).items():
        if name != "source":
            print(f"{name:20} {value:16,.1f}")
    print("\nheld-out error      mean     p90   two token rates: mean   padded work counted: mean")
    for name, error in document["errors"].items():
        two, full = (document[k]["errors"][name] for k in ("two_token_rates", "padded_work"))
        print(
            f"{name:15} {error['mean']:8.1%}{error['p90']:8.1%}"
            f"{two['mean']:24.1%}{full['mean']:28.1%}"
        )
    if document["captures"]:
        print(f"{document['captures']} graphs were captured in timed rounds: measure again")
    print(f"\nwritten: {out}")
