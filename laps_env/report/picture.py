"""Results as a picture: tail against mean, a panel for each family of scenarios and each load."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from laps_env.evaluation.results import Results
from laps_env.report.leaderboard import Standing, leaderboard
from laps_env.utils.files import write_beside

#: File endings that the picture can have.
FORMATS = (".png", ".pdf", ".svg")

#: Size of a panel and the largest of the whole, in inches of 100 pixels.
PANEL, LARGEST = (6.4, 5.0), (16.0, 12.0)

#: Loads of which there are panels, the highest.
MOST_LOADS = 3

#: Room between two names, as a share of the panel's height, and nearness of points, as a share of
#: the panel, of which one name is enough.
LINE, CLOSE = 0.042, 0.035

#: Times the reference's beyond which a policy stands at the panel's edge.
FARTHEST = 4.0


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
    """Draw the frontier of mean and p99 latency, and write it in one move."""
    from matplotlib.figure import Figure

    families = list(dict.fromkeys(row.family for row in results.rows))
    loads = list(dict.fromkeys(row.load for row in results.rows))[-MOST_LOADS:]
    shape = (len(loads), len(families)) if len(families) > 1 else (1, len(loads))
    wide, high = (min(p * n, most) for p, n, most in zip(PANEL, shape[::-1], LARGEST, strict=True))
    figure = Figure(figsize=(wide, high), layout="constrained")
    panels = figure.subplots(*shape, squeeze=False).flat
    places = [(load, family) for load in loads for family in families]
    for panel, (load, family) in zip(panels, places, strict=True):
        rows = [row for row in results.rows if (row.load, row.family) == (load, family)]
        _draw_panel(panel, leaderboard([replace(results, rows=rows)]), results)
        panel.set_title(f"{family}, load {load}", fontsize=11)
    figure.supxlabel(f"mean latency / {results.reference}'s (95 % interval)", fontsize=11)
    figure.supylabel(f"p99 latency / {results.reference}'s", fontsize=11)
    image = io.BytesIO()
    figure.savefig(image, format=path.suffix[1:], dpi=100)
    write_beside(path, [image.getvalue()])


def _draw_panel(panel: Any, standings: Sequence[Standing], results: Results) -> None:
    """A point with its intervals for each policy; those that are dominated are dim."""
    named = []
    for standing in standings:
        other = standing.policy == results.oracle
        color = "C0" if standing.on_frontier else "C3" if other else "0.75"
        if standing.policy == results.reference and not standing.on_frontier:
            color = "0.2"
        if color != "0.75":
            named.append(standing)
        x, y = _shown(standing)
        panel.errorbar(
            x,
            y,
            xerr=_arms(x, standing.mean_ci95),
            yerr=_arms(y, standing.tail_ci95),
            fmt="D" if other else "o",
            markersize=5,
            elinewidth=1,
            color=color,
            zorder=2 + (color != "0.75"),
        )
    frontier = [_shown(s) for s in standings if s.on_frontier]
    panel.step(*zip(*frontier, strict=True), where="post", color="C0", alpha=0.4, zorder=1)
    _scale(panel)
    _name(panel, named)


def _shown(standing: Standing) -> tuple[float, float]:
    return min(standing.mean, FARTHEST), min(standing.tail, FARTHEST)


def _arms(value: float, interval: tuple[float, float] | None) -> Any:
    """Lengths of an interval's two halves, inside the panel."""
    if interval is None or value >= FARTHEST:
        return None
    low, high = interval
    return np.maximum([[value - low], [min(high, FARTHEST) - value]], 0)


def _scale(panel: Any) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ticks = [0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 3, 4]
    panel.set_xscale("log")
    panel.set_yscale("log")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    panel.tick_params(labelsize=9)
    panel.grid(color="0.93")
    panel.spines[["top", "right"]].set_visible(False)


def _name(panel: Any, standings: Iterable[Standing]) -> None:
    """Names beside their points, far enough from each other to be read."""
    to_share = panel.transScale + panel.transLimits
    panel.autoscale_view()
    places: dict[Standing, Any] = {}
    for standing in sorted(standings, key=lambda s: s.on_frontier):  # the others are few
        place = to_share.transform(_shown(standing))
        if all(np.abs(place - other).max() > CLOSE for other in places.values()):
            places[standing] = place
    height = -1.0
    for standing, (x, y) in sorted(places.items(), key=lambda named: named[0].tail):
        height = max(height + LINE, y + 0.015)
        left = x > 0.7
        panel.annotate(
            standing.policy,
            _shown(standing),
            (x + (-0.03 if left else 0.03), height),
            textcoords="axes fraction",
            ha="right" if left else "left",
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6},
        )
