"""Shortest predicted job first, no pre-emption (SSJF).

Source: Qiu et al., "Efficient Interactive LLM Serving with Proxy Model-based Sequence Length
Prediction" (arXiv 2404.08509), section 3: speculative shortest job first on predicted lengths.
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.sim.observation import PREDICTED_TOKENS, ROUNDS
from laps_env.utils.jit import rule


@rule
def sjf(row: Any, server: Any, params: Any, memory: Any) -> float:
    """A started request is never left; then the shortest prediction."""
    return -1.0 if row[ROUNDS] > 0 else row[PREDICTED_TOKENS]


SPEC = RuleSpec("sjf", "shortest predicted job first, no pre-emption", sjf)
