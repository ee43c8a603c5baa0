"""SRPT with bounce: a request that has passed its prediction stands back again.

Source: Scully, Grosof, Mitzenmacher, "Uniform Bounds for Scheduling with Job Size Estimates" (arXiv
2110.00633): a job of estimated size z and attained service a has rank min(|z - a|, z). It falls to
0 as `laps_env.policies.sprpt`'s does, then rises with what is served beyond the estimate, to z, so
that a job whose size was underestimated holds up nobody for long. Assumed: the form of the rank,
which was read in a survey (arXiv 2503.07545); that size is counted in output tokens.
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.sim.observation import GENERATED_TOKENS, PREDICTED_TOKENS
from laps_env.utils.jit import rule


@rule
def srpt_bounce(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Distance of the generated tokens from the prediction, at most the prediction."""
    predicted = row[PREDICTED_TOKENS]
    return min(abs(predicted - row[GENERATED_TOKENS]), predicted)


SPEC = RuleSpec("srpt_bounce", "SPRPT that steps back once a prediction is passed", srpt_bounce)
