"""Results as a picture: latency relative to LAPS-SD, a panel per load and kind of server."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from laps_env.evaluation.results import Results, Row
from laps_env.utils.files import write_beside

#: File endings that the picture can have.
FORMATS = (".png", ".pdf", ".svg")

#: Ratios beyond are written at the edge as numbers.
FARTHEST = 3.5


def check_picture(path: Path) -> None:
    """Whether a picture can be drawn there, before hours are spent on its numbers.

    Raises:
        ValueError: Matplotlib is missing, or an unknown ending.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"picture: expected a file ending in {', '.join(FORMATS)}; got {path}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError(
            "picture: expected matplotlib (the extra 'evaluate'), got none installed"
        ) from None


def draw_picture(results: Results, path: Path) -> None:
    """Draw and write in one move; a policy is left out where its tuned variant is there too."""
    from matplotlib.figure import Figure

    rows = results.rows
    names = _shown(rows, results.reference)
    loads = list(dict.fromkeys(row.load for row in rows))
    batches = sorted({row.batch_size for row in rows})
    scenarios = list(dict.fromkeys(_traffic(row) for row in rows))
    height = 1.2 + len(batches) * (0.5 + 0.042 * len(names) * (len(scenarios) + 2.5))
    figure = Figure(figsize=(2.0 + 4.4 * len(loads), height), layout="constrained")
    panels = figure.subplots(len(batches), len(loads), squeeze=False, sharex=True, sharey=True)
    for line, batch in zip(panels, batches, strict=True):
        for panel, load in zip(line, loads, strict=True):
            inside = [r for r in rows if r.batch_size == batch and r.load == load]
            _draw_panel(panel, inside, names, scenarios)
            server = "one request at a time" if batch == 1 else f"batches of {batch}"
            panel.set_title(f"{server}, load {load}", fontsize=10)
    _label_axes(panels, rows, names)
    handles, labels = {}, {}
    for panel in panels.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles[label], labels[label] = handle, label
    figure.legend(
        [handles[s] for s in scenarios],
        scenarios,
        loc="outside upper center",
        frameon=False,
        ncols=min(len(scenarios), 6),
        fontsize=9,
    )
    figure.supxlabel(
        f"mean latency relative to {results.reference} (95 % interval), less is better",
        fontsize=10,
    )
    image = io.BytesIO()
    figure.savefig(image, format=path.suffix[1:], dpi=130)
    write_beside(path, [image.getvalue()])


def _traffic(row: Row) -> str:
    """The scenario's name without the kind of its server."""
    return str(row.scenario).rpartition("-")[0] or str(row.scenario)


def _shown(rows: list[Row], reference: str) -> list[str]:
    """Policies from the fastest to the slowest, by their mean log ratio; not the reference."""
    names = list(dict.fromkeys(row.policy for row in rows))
    keep_both = reference.removesuffix("_tuned")
    names = [n for n in names if n != reference and (n == keep_both or f"{n}_tuned" not in names)]
    if not names:
        names = [reference]
    of = {
        name: np.mean([np.log(r.ratio_to_reference) for r in rows if r.policy == name])
        for name in names
    }
    return sorted(names, key=lambda name: float(of[name]))


def _draw_panel(panel: Any, rows: list[Row], names: list[str], scenarios: list[str]) -> None:
    """A point with its interval per policy and scenario, scenarios one below the other."""
    present = [s for s in scenarios if any(_traffic(row) == s for row in rows)]
    for k, scenario in enumerate(present):
        chosen = {r.policy: r for r in rows if _traffic(r) == scenario}
        drawn = [(i, chosen[name]) for i, name in enumerate(names) if name in chosen]
        if not drawn:
            continue
        ratio = np.array([row.ratio_to_reference for _, row in drawn])
        bounds = np.array([row.ratio_ci95 or [row.ratio_to_reference] * 2 for _, row in drawn])
        place = np.array([i for i, _ in drawn]) + 0.7 * ((k + 0.5) / len(present) - 0.5)
        color = f"C{scenarios.index(scenario)}"
        for x, y in zip(ratio, place, strict=True):
            if x > FARTHEST:
                panel.text(
                    FARTHEST, y, f"{x:.0f} \u2192", color=color, fontsize=8, va="center", ha="right"
                )
        near = ratio <= FARTHEST
        panel.errorbar(
            ratio[near],
            place[near],
            xerr=np.abs(bounds[near].T - ratio[near]),
            fmt="o",
            markersize=3.5,
            elinewidth=1.2,
            color=color,
            label=scenario,
        )
    for i in range(0, len(names), 2):
        panel.axhspan(i - 0.5, i + 0.5, color="0.96", zorder=0)
    panel.axvline(1.0, color="0.4", linewidth=1, zorder=1)


def _label_axes(panels: Any, rows: list[Row], names: list[str]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    for panel in panels.flat:
        panel.set_xscale("log")
        panel.set_xlim(right=FARTHEST)
        panel.xaxis.set_major_locator(FixedLocator([0.25, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10]))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        panel.tick_params(labelsize=9)
        panel.tick_params(axis="y", length=0)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[:, 0]:
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
