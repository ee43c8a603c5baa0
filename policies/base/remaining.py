"""Shared by the rules that order by what is left: predicted tokens, tokens per round.

A prediction that has been passed says only that it was wrong. ``overrun`` is the least remaining
length such a request is thought to have, as a share of what it has generated: 0 takes the
prediction at its word (and then serves the request first), larger values stand back.
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.rule_spec import Parameter
from laps_env.sim.observation import GENERATED_TOKENS, ROUNDS
from laps_env.utils.jit import inlined

OVERRUN = Parameter(
    "overrun", 0.0, 0.0, 2.0, "least remaining length after the prediction is passed / generated"
)


@inlined
def remaining_tokens(row: Any, length: float, overrun: float) -> float:
    """Tokens that a request of expected total ``length`` still needs, at least one."""
    generated = row[GENERATED_TOKENS]
    return max(length - generated, overrun * generated, 1.0)


@inlined
def shrunk_tokens_per_round(row: Any, category_mean: float, weight: float) -> float:
    """Observed tokens per round, shrunk to the category's mean with ``weight`` rounds."""
    return (weight * category_mean + row[GENERATED_TOKENS]) / (weight + row[ROUNDS])
