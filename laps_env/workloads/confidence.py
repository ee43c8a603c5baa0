"""Confidences of the draft for generated acceptance: calibrated, and as informative as recorded.

A confidence is drawn from a Beta law whose mean is the share a of the draft's tokens that its
category accepts, given whether this token is accepted:

    confidence | accepted ~ Beta(a k + 1, (1 - a) k)
    confidence | refused  ~ Beta(a k, (1 - a) k + 1)

so that among tokens of confidence c a share c is accepted. The concentration k says how much a
confidence knows of its own token: 0 everything, infinity nothing. Of the request's own rate and the
state of its chain it says nothing, which no draft is known to know. Assumed: what public runs of
EAGLE-3 do not have is taken from the demo's head, whose confidences separate accepted from refused
tokens with an area under the curve of .78 to .83, at calibration errors of .02 to .06
(`CONCENTRATION`).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt

from laps_env.utils.jit import jit
from laps_env.workloads.acceptance import ChainProfile
from laps_env.workloads.random import CONFIDENCE, Key, uniforms

#: Concentration k at which a threshold is worth 3.2 % of the throughput of `mixed-serial-8b`, what
#: it was worth on recorded answers of the demo's head at an H100's costs, its acceptance scaled to
#: that of EAGLE-3; the area under the curve is then .77. At 8 a threshold is worth half of it.
CONCENTRATION = 4.0

#: Shares and quantiles of the tabled laws; confidences are bytes.
_SHARES, _QUANTILES, _LEVELS = 64, 256, 256


@cache
def confidence_table(concentration: float) -> npt.NDArray[np.uint8]:
    """Quantiles of confidences, uint8 [shares, 2, quantiles]: of refused and accepted tokens."""
    level = (np.arange(_LEVELS) + 0.5) / _LEVELS
    table = np.empty((_SHARES, 2, _QUANTILES), np.uint8)
    quantile = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    for row, share in enumerate((np.arange(_SHARES) + 0.5) / _SHARES):
        for accepted in (0, 1):
            first = share * concentration + accepted
            second = (1 - share) * concentration + 1 - accepted
            log_density = (first - 1) * np.log(level) + (second - 1) * np.log1p(-level)
            law = np.cumsum(np.exp(log_density - log_density.max()))
            table[row, accepted] = np.searchsorted(law / law[-1], quantile)
    table.flags.writeable = False
    return table


def accepted_share(profile: ChainProfile) -> float:
    """Share of the draft's tokens that requests of a profile accept, over their positions."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    base = profile.mu + math.hypot(profile.sigma, profile.slope) * nodes
    high = profile.p_low_high / max(profile.p_low_high + profile.p_high_low, 1e-300)
    accepted = positions = np.zeros_like(nodes)
    for state, sign in ((high, 1), (1 - high, -1)):
        alpha = 1 / (1 + np.exp(-(base + sign * profile.delta)))
        accepted = accepted + state * alpha / (1 - alpha)  # of a natural round, and one refused
        positions = positions + state / (1 - alpha)
    return float(np.average(accepted / positions, weights=weights))


@jit
def draw_confidences(
    key: Key,
    episode: int,
    shares: npt.NDArray[np.float64],
    category: npt.NDArray[np.int64],
    offset: npt.NDArray[np.int64],
    accepted_length: npt.NDArray[np.uint8],
    table: npt.NDArray[np.uint8],
    confidence: npt.NDArray[np.uint8],
) -> None:
    """Draw the confidence at every output position, ``confidence`` [T] (written).

    Args:
        key: Key of the workload.
        episode: Number of its episode.
        shares: Share of the draft's tokens that is accepted, by category (`accepted_share`).
        category: Category of each request [R].
        offset: First position of each request [R + 1].
        accepted_length: Draft tokens accepted in a row from each position [T].
        table: Quantiles (`confidence_table`).
        confidence: Result [T].
    """
    for i in range(category.size):
        row = min(int(shares[category[i]] * _SHARES), _SHARES - 1)
        for at in range(offset[i], offset[i + 1]):
            u, _ = uniforms(key, CONFIDENCE, episode, i, at - offset[i])
            accepted = 1 if accepted_length[at] > 0 else 0
            confidence[at] = table[row, accepted, int(u * _QUANTILES)]
