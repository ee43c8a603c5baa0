"""Fitted acceptance: a generator of requests whose rounds look like recorded ones.

An i.i.d. acceptance rate per request makes early estimates too good, and acceptance-aware
schedulers look better than they are. The profiles here have a request effect, a length effect and
a two-state chain, which together reproduce the recorded autocorrelation and the slow convergence
of the running mean:

    log N ~ Normal(log_mean, log_sd)
    logit(alpha) = mu + slope * (log N - log_mean) / log_sd + sigma * z  (+ or -) delta

where the sign is the state of a chain with P(low -> high) = p_low_high and P(high -> low) =
p_high_low. The chain moves once per *natural round*: a maximal run of accepted draft tokens with
the target's own token after it (assumed: the fits were made on recorded rounds, 29 % of which
were cut by the draft length).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from laps_env.utils.checks import check_not_negative
from laps_env.utils.jit import jit
from laps_env.workloads.drift import Shifts
from laps_env.workloads.random import (
    ACCEPTANCE,
    ATTRIBUTES,
    SAMPLING,
    Key,
    normals,
    uniforms,
)

#: ``accepted_length`` is stored as uint8.
LONGEST_RUN = 255


@dataclass(frozen=True)
class ChainProfile:
    """One task category: the laws of its prompt length, output length and acceptance.

    Attributes:
        log_mean, log_sd: Mean and deviation of the natural log of output tokens.
        mu, slope, sigma, delta: Constants of logit(alpha), see the module's formula.
        p_low_high, p_high_low: Transition probabilities of the chain per natural round.
        prompt_log_mean, prompt_log_sd: Mean and deviation of the natural log of prompt tokens.
        prompt_correlation: Correlation of these logs, of prompt and output, in [-1, 1].
        source: Origin of the numbers.

    Raises:
        ValueError: A number is not finite, a deviation negative, a probability outside [0, 1] or a
            correlation outside [-1, 1].
    """

    log_mean: float
    log_sd: float
    mu: float
    slope: float
    sigma: float
    delta: float
    p_low_high: float
    p_high_low: float
    prompt_log_mean: float
    prompt_log_sd: float
    prompt_correlation: float = 0.0
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name != "source" and not math.isfinite(value):
                raise ValueError(f"{f.name}: expected a finite number, got {value!r}")
        for name in ("log_sd", "sigma", "delta", "prompt_log_sd"):
            check_not_negative(name, getattr(self, name))
        for name in ("p_low_high", "p_high_low"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0..1, got {getattr(self, name)!r}")
        if not -1 <= self.prompt_correlation <= 1:
            raise ValueError(f"prompt_correlation: expected -1..1, got {self.prompt_correlation!r}")

    def numbers(self) -> npt.NDArray[np.float64]:
        """Array of the eleven numbers in the order of the fields."""
        return np.array([getattr(self, f.name) for f in fields(self) if f.name != "source"])


(
    _LOG_MEAN,
    _LOG_SD,
    _MU,
    _SLOPE,
    _SIGMA,
    _DELTA,
    _P_LOW_HIGH,
    _P_HIGH_LOW,
    _PROMPT_LOG_MEAN,
    _PROMPT_LOG_SD,
    _PROMPT_CORRELATION,
) = range(11)


def shifted(profiles: npt.NDArray[np.float64], shifts: Shifts) -> npt.NDArray[np.float64]:
    """Numbers of C profiles [C, 11] as they are at each of R requests, [R, C, 11]."""
    table = np.repeat(profiles[None], len(shifts.length), axis=0)
    table[:, :, _LOG_MEAN] += shifts.length
    table[:, :, _MU] += shifts.acceptance
    return table


@jit
def draw_attributes(
    key: Key,
    episode: int,
    profiles: npt.NDArray[np.float64],
    cumulative_mix: npt.NDArray[np.float64],
    longest: int,
    category: npt.NDArray[np.int64],
    prompt: npt.NDArray[np.int64],
    output: npt.NDArray[np.int64],
) -> None:
    """Draw category, prompt tokens and output tokens of each request (arrays [R], written).

    ``profiles`` [S, C, 11] and ``cumulative_mix`` [S, C] are those of each request, or of all.
    """
    last = profiles.shape[0] - 1
    for i in range(category.size):
        u, _ = uniforms(key, ATTRIBUTES, episode, i, 0)
        mix = cumulative_mix[min(i, last)]
        k = 0
        while k < mix.size - 1 and u > mix[k]:
            k += 1
        z_output, z_own = normals(key, ATTRIBUTES, episode, i, 1)
        p = profiles[min(i, last), k]
        shared = p[_PROMPT_CORRELATION]
        z_prompt = shared * z_output + math.sqrt(1.0 - shared * shared) * z_own
        category[i] = k
        output[i] = bounded_tokens(p[_LOG_MEAN] + p[_LOG_SD] * z_output, longest)
        prompt[i] = bounded_tokens(p[_PROMPT_LOG_MEAN] + p[_PROMPT_LOG_SD] * z_prompt, longest)


@jit
def bounded_tokens(log_tokens: float, longest: int) -> int:
    """Token count from its logarithm, within 1..longest."""
    return int(min(max(np.rint(math.exp(min(log_tokens, 40.0))), 1.0), longest))


@jit
def draw_accepted_lengths(
    key: Key,
    episode: int,
    profiles: npt.NDArray[np.float64],
    category: npt.NDArray[np.int64],
    output: npt.NDArray[np.int64],
    offset: npt.NDArray[np.int64],
    accepted_length: npt.NDArray[np.uint8],
) -> None:
    """Draw the acceptance of every output position, ``accepted_length`` [T] (written).

    ``profiles`` [S, C, 11] are those of each request, or of all.
    """
    last = profiles.shape[0] - 1
    for i in range(category.size):
        p = profiles[min(i, last), category[i]]
        z, _ = normals(key, ACCEPTANCE, episode, i, 0)
        u_state, _ = uniforms(key, ACCEPTANCE, episode, i, 1)
        base = p[_MU] + p[_SIGMA] * z
        if p[_LOG_SD] > 0:
            base += p[_SLOPE] * (math.log(output[i]) - p[_LOG_MEAN]) / p[_LOG_SD]
        # log of alpha = 1 / (1 + exp(-logit)); a run is geometric: floor(log u / log alpha)
        log_low = -math.log1p(math.exp(-(base - p[_DELTA])))
        log_high = -math.log1p(math.exp(-(base + p[_DELTA])))
        switching = p[_P_LOW_HIGH] + p[_P_HIGH_LOW]
        high = u_state * switching < p[_P_LOW_HIGH]
        position, block = 0, 2
        while position < output[i]:
            u_run, u_switch = uniforms(key, ACCEPTANCE, episode, i, block)
            block += 1
            run = int(min(math.log(u_run) / (log_high if high else log_low), LONGEST_RUN))
            for k in range(min(run + 1, output[i] - position)):
                accepted_length[offset[i] + position + k] = run - k
            position += run + 1
            high = u_switch >= p[_P_HIGH_LOW] if high else u_switch < p[_P_LOW_HIGH]


@jit
def sample_accepted_lengths(
    key: Key,
    episode: int,
    acceptance: npt.NDArray[np.float32],
    offset: npt.NDArray[np.int64],
    accepted_length: npt.NDArray[np.uint8],
) -> None:
    """Draw whether the draft's token is accepted at every position, and count those in a row.

    A run ends with its output, behind which nothing is known.

    Args:
        key: Key of the workload.
        episode: Number of its episode.
        acceptance: Probability at each position [T], 0..1.
        offset: First position of each request [R + 1].
        accepted_length: Tokens accepted in a row from each position [T] (written).
    """
    for i in range(offset.size - 1):
        run = 0
        for at in range(offset[i + 1] - 1, offset[i] - 1, -1):
            u, _ = uniforms(key, SAMPLING, episode, i, at - offset[i])
            run = min(run + 1, LONGEST_RUN) if u < acceptance[at] else 0
            accepted_length[at] = run
