"""Category-shrunk SPRPT: remaining *rounds*, with the speed shrunk to the task category's mean.

Rounds = remaining predicted tokens / tokens per round. A request's own tokens per round settle
slowly (median 37 rounds), the category explains 24-43 % of the differences, and the mean of both
predicts best (analysis of public runs; weight about 20 rounds).
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.remaining import (
    OVERRUN,
    least_tokens,
    remaining_tokens,
    shrunk_tokens_per_round,
)
from laps_env.policies.base.rule_spec import Parameter, RuleSpec
from laps_env.policies.base.traffic_model import Floats, TrafficModel
from laps_env.sim.observation import CATEGORY, PREDICTED_TOKENS
from laps_env.utils.jit import rule

WEIGHT = Parameter(
    "weight", 20.0, 2.0, 200.0, "rounds that the category's mean counts for", log=True
)

_FITTED = 2


@rule
def category_shrunk(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Predicted remaining rounds; memory keeps when that was told."""
    speed = shrunk_tokens_per_round(row, params[_FITTED + int(row[CATEGORY])], params[1])
    least = least_tokens(row, params[0], memory)
    return remaining_tokens(row, row[PREDICTED_TOKENS], least) / speed


def category_speeds(traffic: TrafficModel) -> Floats:
    """Tokens per round of each category."""
    return traffic.tokens_per_round


SPEC = RuleSpec(
    "category_shrunk",
    "SPRPT in rounds, speed shrunk to the category",
    category_shrunk,
    (OVERRUN, WEIGHT),
    cells=2,
    fitted=category_speeds,
    by_category=True,
)
