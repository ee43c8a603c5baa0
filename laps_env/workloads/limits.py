"""Limits that requests have (service-level objectives): what their users still call good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from laps_env.sim.state import NO_LIMIT
from laps_env.utils.checks import MAX_SECONDS, is_finite


@dataclass(frozen=True)
class Limits:
    """Limits of one request, in seconds; None where there is none.

    Attributes:
        ttft_s: Longest time to the first token.
        tpot_s: Longest time per output token behind the first, on average over the request.
        e2e_s: Longest time to the last token.

    Raises:
        ValueError: A limit out of range, none at all, or one that another makes impossible.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if not given:
            raise ValueError("limits: expected ttft_s, tpot_s or e2e_s, got none of them")
        for name, value in given.items():
            if not (is_finite(value) and 1e-9 <= value <= MAX_SECONDS):
                raise ValueError(
                    f"limits: {name}: expected seconds in 1e-09..{MAX_SECONDS:g}, got {value!r}"
                )
        if self.ttft_s is not None and self.e2e_s is not None and self.e2e_s < self.ttft_s:
            raise ValueError(
                f"limits: e2e_s: expected at least ttft_s = {self.ttft_s:g}, got {self.e2e_s:g}"
            )


def limits_ns(
    limits: Mapping[str, Limits], categories: Sequence[str], category: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Limits of each request in nanoseconds, int64 [R, 3], `NO_LIMIT` where there is none.

    Args:
        limits: Limits by the name of a category.
        categories: Names of the categories.
        category: Category of each request [R].

    Raises:
        ValueError: A category that is not there.
    """
    unknown = limits.keys() - set(categories)
    if unknown:
        raise ValueError(f"limits: expected categories {categories}, got {sorted(unknown)}")
    table = np.full((len(categories), 3), NO_LIMIT, np.int64)
    for name, given in limits.items():
        table[categories.index(name)] = [
            NO_LIMIT if value is None else round(value * 1e9) for value in astuple(given)
        ]
    return table[category]
