"""Shared by the rules that order by what is left: predicted tokens, tokens per round, seconds.

A prediction that has been passed says only that it was wrong. ``overrun`` is the least remaining
length such a request is thought to have, as a share of what it has generated since it was told: 0
takes the prediction at its word (and then serves the request first), larger values stand back.
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.rule_spec import Parameter
from laps_env.sim.observation import (
    DRAFT_LENGTH,
    DRAFT_STEP_S,
    GENERATED_TOKENS,
    PREDICTED_TOKENS,
    ROUNDS,
    VERIFY_S,
)
from laps_env.utils.jit import inlined

OVERRUN = Parameter(
    "overrun", 0.0, 0.0, 2.0, "least remaining length after the prediction is passed / generated"
)


#: Least service in seconds, less than any round takes: of a request that has had none, and before
#: the duration of a round has been measured.
LEAST_WORK_S = 1e-3


@inlined
def remaining_tokens(row: Any, length: float, least: float) -> float:
    """Tokens that a request of expected total ``length`` still needs, at least one."""
    return max(length - row[GENERATED_TOKENS], least, 1.0)


@inlined
def least_tokens(row: Any, overrun: float, told: Any) -> float:
    """Least remaining length: ``overrun`` of what was generated since the prediction was told.

    Args:
        row: Request's row of ``observation["queue"]``.
        overrun: Share, >= 0; without one nothing is remembered.
        told: Two cells of the request's memory: the prediction, and the tokens generated when it
            was told, which a rule that knows no traffic notices by its change (written).
    """
    if overrun == 0:
        return 0.0
    if told[0] != row[PREDICTED_TOKENS]:
        told[1] = row[GENERATED_TOKENS] if told[0] != 0 else 0.0
        told[0] = row[PREDICTED_TOKENS]
    return overrun * (row[GENERATED_TOKENS] - told[1])


@inlined
def shrunk_tokens_per_round(row: Any, category_mean: float, weight: float) -> float:
    """Observed tokens per round, shrunk to the category's mean with ``weight`` rounds."""
    return (weight * category_mean + row[GENERATED_TOKENS]) / (weight + row[ROUNDS])


@inlined
def round_duration_s(server: Any) -> float:
    """Duration of a round at the last draft length."""
    return server[VERIFY_S] + server[DRAFT_LENGTH] * server[DRAFT_STEP_S]


@inlined
def work_s(server: Any, tokens: float, tokens_per_round: float) -> float:
    """Service in seconds that so many tokens take."""
    return max(tokens / tokens_per_round * round_duration_s(server), LEAST_WORK_S)
