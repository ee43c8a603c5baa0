"""Which constants of the cost model some counts of work tell apart, and in words which they do not.

A constant is told by what its count does that those before it do not. One whose count is always 0,
or follows from those of others, is left 0, and what it takes is in theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from laps_env.live.measure.least_squares import Floats

#: Variance inflation from which a count is said to follow from others: 3 % of it is its own.
MOST_INFLATION = 1000.0

#: Share of a count that another one has to explain to be named.
_NAMED = 0.1


class Counted(NamedTuple):
    """A constant of the cost model, and what it counts.

    Attributes:
        constant: Name of the constant.
        things: What it counts, in words.
        place: Which passes tell it, in words, as " without a prompt"; empty = all.
    """

    constant: str
    things: str
    place: str = ""


def told_apart(
    counts: Floats,
    times: Floats,
    counted: Sequence[Counted],
    places: Mapping[str, NDArray[np.bool_]],
) -> tuple[Floats, list[str]]:
    """Which constants are told [constants], as 0 or 1, and a note on each of the others.

    Args:
        counts: Counts of work [samples, constants]; the first are passes, on which something has to
            be laid, so their constant counts as told.
        times: Times [samples] > 0, to which errors are relative.
        counted: Constants in the order of the columns.
        places: Samples by the place of a constant.
    """
    told, notes = [0], []
    for k, own in enumerate(counted[1:], 1):
        seen = places[own.place]
        design = counts[seen] / times[seen, None]
        reason = _reason(design[:, told], design[:, k], [counted[i] for i in told], own)
        if reason is None:
            told.append(k)
        else:
            notes.append(f"{own.constant} is 0: {reason}")
    return np.isin(np.arange(len(counted)), told).astype(np.float64), notes


def _reason(others: Floats, column: Floats, names: Sequence[Counted], own: Counted) -> str | None:
    """Why a count tells nothing beside others; None where it does."""
    size = float(np.linalg.norm(column))
    if size == 0:
        return f"no pass{own.place} has {own.things}"
    each = column / others[:, 0]
    if np.ptp(each) <= 1e-9 * each.max():
        same = f"every pass{own.place} has the same number of {own.things}, {each[0]:g}"
        return f"{same}, so what they take is in {names[0].constant}"
    scale = np.maximum(np.linalg.norm(others, axis=0), np.finfo(np.float64).tiny)
    solution = np.linalg.lstsq(others / scale, column, rcond=None)[0]
    own_part = float(np.linalg.norm(column - others / scale @ solution)) / size
    if own_part**2 * MOST_INFLATION > 1:
        return None
    like = [n for n, part in zip(names, np.abs(solution), strict=True) if part >= _NAMED * size]
    followed = " and ".join(n.things for n in like)
    constants = " and ".join(n.constant for n in like)
    place = f" of passes{own.place}" if own.place else ""
    return (
        f"all but {own_part:.1%} of the {own.things}{place} follow from the {followed}, so what "
        f"they take is in {constants}"
    )
