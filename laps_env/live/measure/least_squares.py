"""Rates of linear costs by non-negative least squares, and how far they miss; needs no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]


def fit_rates(counts: Floats, times: Floats, expected: Floats | None = None) -> Floats:
    """Rates >= 0 with the least sum of squared relative errors, float64 [rates].

    Args:
        counts: Units of work, float64 [samples, rates].
        times: Measured times, float64 [samples], > 0.
        expected: What errors are relative to, float64 [samples], > 0; None = the measured times,
            among which the short ones then count for more than the long ones.
    """
    unit = times if expected is None else expected
    design = counts / unit[:, None]
    # counts differ by orders of magnitude: without a common scale the solver loses digits
    scale = np.maximum(np.linalg.norm(design, axis=0), np.finfo(np.float64).tiny)
    solution, _ = nnls(design / scale, times / unit)
    return np.asarray(solution / scale)


def relative_error(measured: Floats, fitted: Floats) -> dict[str, float]:
    """Absolute relative error of fitted times: mean, 90th percentile, number of samples."""
    error = np.abs(fitted / measured - 1)
    return {
        "mean": float(error.mean()),
        "p90": float(np.quantile(error, 0.9)),
        "samples": len(error),
    }
