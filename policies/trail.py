"""TRAIL: shortest predicted remaining output with limited pre-emption.

Source: Shahout et al., "Don't Stop Me Now: Embedding Based Scheduling for LLMs" (arXiv 2410.01035),
section 3.3: a request may be pre-empted only while generated < C * predicted length. The paper has
C = 0.8, the default here; its authors' published code sets C = 0, which never pre-empts and is
`sjf`, decision by decision.
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.remaining import remaining_tokens
from laps_env.policies.base.rule_spec import Parameter, RuleSpec
from laps_env.sim.observation import GENERATED_TOKENS, PREDICTED_TOKENS
from laps_env.utils.jit import rule


@rule
def trail(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Late in its life a request cannot be pre-empted; before, the fewest tokens left."""
    if row[GENERATED_TOKENS] > 0 and row[GENERATED_TOKENS] >= params[0] * row[PREDICTED_TOKENS]:
        return -1.0
    return remaining_tokens(row, row[PREDICTED_TOKENS], 0.0)


SPEC = RuleSpec(
    "trail",
    "SPRPT with limited pre-emption",
    trail,
    (
        Parameter(
            "c",
            0.8,
            0.0,
            3.0,
            "share of the predicted length that stays pre-emptible",
            "published",
        ),
    ),
)
