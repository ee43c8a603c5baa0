"""Shortest predicted remaining processing time: pre-emptive in every round.

Source: the policy that TRAIL bounds, Shahout et al., "Don't Stop Me Now: Embedding Based Scheduling
for LLMs" (arXiv 2410.01035), section 3 (SPRPT).
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.remaining import OVERRUN, least_tokens, remaining_tokens
from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.sim.observation import PREDICTED_TOKENS
from laps_env.utils.jit import rule


@rule
def sprpt(row: Any, server: Any, params: Any, memory: Any) -> float:
    """The fewest predicted output tokens left; memory keeps when that was told."""
    return remaining_tokens(row, row[PREDICTED_TOKENS], least_tokens(row, params[0], memory))


SPEC = RuleSpec("sprpt", "shortest predicted remaining output", sprpt, (OVERRUN,), cells=2)
