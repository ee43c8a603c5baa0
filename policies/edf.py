"""Earliest deadline first: the next token that would be late.

Source: Liu and Layland, "Scheduling algorithms for multiprogramming in a hard-real-time
environment", JACM 20 (1973). A request's next deadline is that of its first token, of its next one
at the limit per token, or of its last, whichever comes first. Assumed: a request that has missed a
limit counts no more as within its limits, so it stands back (``late_last``); 0 serves it first, as
the rule for hard deadlines does. Requests without limits come last.
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.rule_spec import Parameter, RuleSpec
from laps_env.sim.observation import (
    FINISH_LEFT_S,
    FIRST_TOKEN_LEFT_S,
    MOST_LEFT_S,
    NEXT_TOKEN_LEFT_S,
)
from laps_env.utils.jit import inlined, rule

LATE_LAST = Parameter(
    "late_last", 1, 0, 1, "1: requests that have missed a limit come last", integer=True
)


@inlined
def with_late_last(left: float, late_last: float) -> float:
    """Time left in the order of service: what is late behind all that is not, the latest last."""
    return 2 * MOST_LEFT_S - left if left < 0 and late_last == 1 else left


@rule
def edf(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Time left to the nearest of the three limits."""
    left = min(row[FIRST_TOKEN_LEFT_S], row[NEXT_TOKEN_LEFT_S], row[FINISH_LEFT_S])
    return with_late_last(left, params[0])


SPEC = RuleSpec("edf", "earliest deadline first", edf, (LATE_LAST,))
