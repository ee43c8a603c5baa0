"""Laws of output lengths around their prediction: log-normal, or log-t where the tails are heavy.

log L = line + scale * T, with T normal or Student's t. ``heaviness`` is one over the degrees of
freedom, 0 for the normal law. The law is chosen by what it says of requests that its scale was not
fitted on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.utils.jit import inlined

Floats = npt.NDArray[np.float64]

#: Laws that are tried: the normal one, and degrees of freedom from light to heavy tails; 3.5 is
#: that of TIE (arXiv 2604.00499).
HEAVINESSES = (0.0, 1 / 16, 1 / 8, 1 / 5, 1 / 3.5, 1 / 2.5)

#: Lengths that are all alike still have a density.
_LEAST_SCALE = 1e-3

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)

#: Points of a table of limited means: limit / median of e^-4, ..., e^12.
TABLE_SIZE = 129
_FIRST, _STEP = -4.0, 1 / 8


def choose_law(residuals: Floats, halves: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Heaviness and scale of the law under which each half is likeliest, fitted on the other.

    Args:
        residuals: Distances of log L from the line, float64 [R].
        halves: Half of the requests that each belongs to, bool [R]; a single half has the normal
            law.
    """
    if halves.all():
        return 0.0, fit_scale(residuals, 0.0)

    def held_out(heaviness: float) -> float:
        return sum(
            _log_likelihood(residuals[part], heaviness, fit_scale(residuals[~part], heaviness))
            for part in (halves, ~halves)
        )

    heaviness = max(HEAVINESSES, key=held_out)
    return heaviness, fit_scale(residuals, heaviness)


def fit_scale(residuals: Floats, heaviness: float) -> float:
    """Likeliest scale around 0: the root of mean squares, those far out weighing less."""
    squares = residuals**2
    scale = max(float(np.sqrt(squares.mean())), _LEAST_SCALE)
    for _ in range(100 if heaviness else 0):  # expectation and maximisation
        weights = (1 + heaviness) / (1 + heaviness * squares / scale**2)
        scale = max(float(np.sqrt((weights * squares).mean())), _LEAST_SCALE)
    return scale


def _log_likelihood(residuals: Floats, heaviness: float, scale: float) -> float:
    """Sum of log densities."""
    squares = (residuals / scale) ** 2
    if heaviness == 0:
        return float((-squares / 2 - math.log(scale * math.sqrt(2 * math.pi))).sum())
    freedom = 1 / heaviness
    front = _log_front(freedom) - math.log(scale * math.sqrt(freedom))
    return float((front - (freedom + 1) / 2 * np.log1p(squares / freedom)).sum())


def _log_front(freedom: float) -> float:
    """Log of the constant in front of Student's density, as a function of T / sqrt(freedom)."""
    return math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi) / 2


def length_survival(lengths: Floats, scale: float, heaviness: float) -> Floats:
    """Chance of a greater length under a law of median 1, for lengths >= 0 [n]."""
    logs = np.log(np.maximum(lengths, 1e-300)) / (max(scale, _LEAST_SCALE) * math.sqrt(2.0))
    if heaviness == 0:
        return np.array([0.5 * math.erfc(v) for v in logs])
    return _t_survival(logs * math.sqrt(2.0), 1 / heaviness)


def _t_survival(z: Floats, freedom: float) -> Floats:
    """P(T > z): with T = sqrt(freedom) / tan(angle) the integral of sin^(freedom - 1)."""
    angle = np.arctan2(math.sqrt(freedom), np.abs(z))
    sines = np.sin(angle[:, None] * (1 + _NODES) / 2) ** (freedom - 1)
    upper = math.exp(_log_front(freedom)) * angle / 2 * (sines @ _WEIGHTS)
    return np.where(z < 0, 1 - upper, upper)


def median_distance(scale: float, heaviness: float) -> float:
    """Distance of log L from its median that half of all requests are within."""
    logs = scale * np.linspace(0.0, 1.0, 1001)
    return float(np.interp(-0.25, -length_survival(np.exp(logs), scale, heaviness), logs))


def limited_mean_table(scale: float, heaviness: float, share: float = 1.0) -> Floats:
    """Table for `limited_mean`: the mean of min(L, limit) over the longest ``share`` of all L.

    That is 1 for the mean and 0.1 for the conditional value at risk at 90 %.
    """
    logs = np.linspace(_FIRST - 16, _FIRST + _STEP * (TABLE_SIZE - 1), 4001)
    lengths = np.exp(logs)
    survival = length_survival(lengths, scale, heaviness)
    # Of the longest share: the chance of a greater length is 1 up to the share's shortest one.
    alive = np.minimum(survival / share, 1.0)
    steps = np.diff(lengths) * (alive[1:] + alive[:-1]) / 2
    means = lengths[0] + np.concatenate([[0.0], np.cumsum(steps)])
    limits = _FIRST + _STEP * np.arange(TABLE_SIZE)
    return np.interp(limits, logs, np.log(means)) - limits


@inlined
def limited_mean(log_median: float, log_limit: float, table: Any) -> float:
    """Mean of min(L, limit) in tokens for a law of this median (`limited_mean_table`)."""
    place = min(max((log_limit - log_median - _FIRST) / _STEP, 0.0), TABLE_SIZE - 1.0)
    left = min(int(place), TABLE_SIZE - 2)
    log_share = table[left] + (table[left + 1] - table[left]) * (place - left)
    return math.exp(log_limit + log_share)
