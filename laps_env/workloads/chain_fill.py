"""Filling what a recording did not show with the chain of `laps_env.workloads.acceptance`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from laps_env.traces.importers.runs import Fill
from laps_env.utils.checks import check_one_of
from laps_env.workloads.acceptance import ChainProfile

#: Half of the recorded rounds that were fully accepted had drafted this many tokens or fewer (the
#: public Spec-Bench run of vicuna-7b-v1.3 with vicuna-68m, 11,648 such rounds).
ACCEPTED_BEFORE = 2


def chain_fill(
    profiles: Mapping[str, ChainProfile], accepted_before: int = ACCEPTED_BEFORE
) -> Fill:
    """A `Fill` that draws bits from the chain fitted to the request's category.

    The chain's level is set so that its long-run alpha is the request's observed one. Every
    place comes after ``accepted_before`` accepted tokens in a row, which makes the chain's high
    state likelier there: the state is drawn from its posterior, given the state that was drawn for
    the place before (one transition between two places: at least one round lies there).

    Args:
        profiles: Fitted profile of each category.
        accepted_before: Accepted tokens before each place, >= 0; 0 where nothing is known.

    Raises:
        ValueError: A category without a profile (raised by the fill).
    """

    def chain(
        rng: np.random.Generator, category: str, observed_alpha: float, count: int
    ) -> NDArray[np.bool_]:
        check_one_of("category of the recording", category, profiles)
        profile = profiles[category]
        alpha_low, alpha_high = state_alphas(profile, observed_alpha)
        evidence_low, evidence_high = alpha_low**accepted_before, alpha_high**accepted_before
        high = _share_of_high(profile)
        bits = np.empty(count, np.bool_)
        uniforms = rng.random((count, 2))
        for place in range(count):
            weight = high * evidence_high
            is_high = uniforms[place, 0] * (weight + (1 - high) * evidence_low) < weight
            bits[place] = uniforms[place, 1] < (alpha_high if is_high else alpha_low)
            high = 1 - profile.p_high_low if is_high else profile.p_low_high
        return bits

    return chain


def state_alphas(profile: ChainProfile, alpha: float) -> tuple[float, float]:
    """Alpha in the low and in the high state of a chain whose long-run alpha is ``alpha``.

    A natural round in a state of rate a has 1 / (1 - a) trials on average, one of them a rejection,
    so alpha / (1 - alpha) = exp(base) * E[exp(+-delta)] over the rounds' states.
    """
    high = _share_of_high(profile)
    spread = high * math.exp(profile.delta) + (1 - high) * math.exp(-profile.delta)
    base = math.log(alpha / (1 - alpha)) - math.log(spread)
    low, up = (1 / (1 + math.exp(-(base + sign * profile.delta))) for sign in (-1, 1))
    return low, up


def _share_of_high(profile: ChainProfile) -> float:
    switching = profile.p_low_high + profile.p_high_low
    return profile.p_low_high / switching if switching > 0 else 0.0
