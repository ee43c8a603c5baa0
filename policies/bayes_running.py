"""Bayes SRPT under length laws that follow the traffic.

As `laps_env.policies.bayes_srpt`, but the law of a category is that of the requests that have
finished lately (`laps_env.policies.base.running_law`).
"""

from __future__ import annotations

import math
from typing import Any

from laps_env.policies.base.remaining import OVERRUN, remaining_tokens, shrunk_tokens_per_round
from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.policies.base.running_law import (
    LAW,
    MEMORY,
    PER_SLOT,
    SHARED,
    first_laws,
    follow,
    law_place,
)
from laps_env.policies.bayes_srpt import posterior_log_length
from laps_env.policies.category_shrunk import WEIGHT
from laps_env.utils.jit import prepare, rule

_FITTED = 3


@prepare
def learn(queue: Any, server: Any, params: Any) -> None:
    """Follow the traffic."""
    follow(queue, server, params[0], params[_FITTED:])


@rule
def bayes_running(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Expected remaining rounds."""
    first = law_place(row)
    law = server[first : first + LAW]
    expected = math.exp(posterior_log_length(row, law) + law[3] / 2)
    speed = shrunk_tokens_per_round(row, law[0], params[2])
    return remaining_tokens(row, expected, params[1]) / speed


SPEC = RuleSpec(
    "bayes_running",
    "expected remaining rounds under laws fitted as requests finish",
    bayes_running,
    (MEMORY, OVERRUN, WEIGHT),
    prepare=learn,
    shared=SHARED,
    shared_per_slot=PER_SLOT,
    keeps=True,
    fitted=first_laws,
    by_category=True,
)
