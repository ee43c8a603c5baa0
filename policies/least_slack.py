"""Least slack first: the time left to a limit less the time that is still needed for it.

Source: least laxity first, Mok, "Fundamental design problems of distributed systems for the
hard-real-time environment", MIT (1983). For its first or next token a request needs one round, for
its last what it is predicted to have left, at its tokens per round (shrunk to its category's) and
the server's present duration of a round. Assumed: who can no longer keep a limit stands back
(``late_last``); 0 serves it first.
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.remaining import (
    OVERRUN,
    least_tokens,
    remaining_tokens,
    round_duration_s,
    shrunk_tokens_per_round,
    work_s,
)
from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.policies.category_shrunk import WEIGHT, category_speeds
from laps_env.policies.edf import LATE_LAST, with_late_last
from laps_env.sim.observation import (
    CATEGORY,
    FINISH_LEFT_S,
    FIRST_TOKEN_LEFT_S,
    NEXT_TOKEN_LEFT_S,
    PREDICTED_TOKENS,
)
from laps_env.utils.jit import rule

_FITTED = 3


@rule
def least_slack(row: Any, server: Any, params: Any, memory: Any) -> float:
    """The least slack of the three limits; memory keeps when the length was told."""
    speed = shrunk_tokens_per_round(row, params[_FITTED + int(row[CATEGORY])], params[2])
    least = least_tokens(row, params[1], memory)
    tokens = remaining_tokens(row, row[PREDICTED_TOKENS], least)
    next_token = min(row[FIRST_TOKEN_LEFT_S], row[NEXT_TOKEN_LEFT_S]) - round_duration_s(server)
    slack = min(next_token, row[FINISH_LEFT_S] - work_s(server, tokens, speed))
    return with_late_last(slack, params[0])


SPEC = RuleSpec(
    "least_slack",
    "least slack to a limit, on the predicted time",
    least_slack,
    (LATE_LAST, OVERRUN, WEIGHT),
    cells=2,
    fitted=category_speeds,
    by_category=True,
)
