"""Learning to rank (vllm-ltr): the predicted length each step, with a guard against starvation.

Source: Fu et al., "Efficient LLM Scheduling by Learning to Rank" (arXiv 2408.15792), section 4.3: a
request that has not run for 200 steps gets top priority for 10 steps.
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.rule_spec import Parameter, RuleSpec
from laps_env.sim.observation import IDLE_ROUNDS, PREDICTED_TOKENS, ROUNDS
from laps_env.utils.jit import rule


@rule
def vllm_ltr(row: Any, server: Any, params: Any, memory: Any) -> float:
    """The shortest prediction; memory holds the round count up to which it is promoted."""
    if row[IDLE_ROUNDS] >= params[0]:
        memory[0] = row[ROUNDS] + params[1]
    return -1.0 if row[ROUNDS] < memory[0] else row[PREDICTED_TOKENS]


SPEC = RuleSpec(
    "vllm_ltr",
    "predicted length each step, starvation guard",
    vllm_ltr,
    (
        Parameter(
            "patience_rounds", 200, 50, 100_000, "idle rounds before promotion", "published", True
        ),
        Parameter("boost_rounds", 10, 1, 200, "rounds of promotion", "published", True),
    ),
)
