"""Bayes SRPT under the law of lengths that fits best, with heavy tails where they are.

As `laps_env.policies.bayes_srpt`, but the law around the prediction is log-normal or log-t,
whichever predicts requests of the *train* split best that it was not fitted on
(`laps_env.policies.base.length_law`). A log-t law has no mean, so the expected length is that of
min(L, limit), with the greatest length of the *train* split for the server's limit. Ours.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from laps_env.policies.base.length_law import TABLE_SIZE, limited_mean, limited_mean_table
from laps_env.policies.base.remaining import OVERRUN, remaining_tokens, shrunk_tokens_per_round
from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.policies.base.traffic_model import Floats, TrafficModel
from laps_env.policies.bayes_srpt import LAW_SIZE, posterior_log_length
from laps_env.policies.category_shrunk import WEIGHT
from laps_env.policies.gittins import with_laws
from laps_env.sim.observation import CATEGORY
from laps_env.utils.jit import rule

_LIMIT, _FITTED = 2, 3
_SIZE = LAW_SIZE + TABLE_SIZE


@rule
def bayes_srpt_heavy(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Expected remaining rounds; memory keeps the expected length, which never changes."""
    first = _FITTED + _SIZE * int(row[CATEGORY])
    law = params[first : first + _SIZE]
    if memory[0] == 0:
        memory[0] = limited_mean(posterior_log_length(row, law), params[_LIMIT], law[LAW_SIZE:])
    speed = shrunk_tokens_per_round(row, law[0], params[1])
    return remaining_tokens(row, memory[0], params[0]) / speed


def limited_laws(traffic: TrafficModel) -> Floats:
    """Log of the limit; then each category's law and its table of limited means, flat."""
    fitted = zip(traffic.scale, traffic.heaviness, strict=True)
    tables = [limited_mean_table(scale, heaviness) for scale, heaviness in fitted]
    return np.concatenate([[math.log(traffic.longest_tokens)], with_laws(traffic, tables)])


SPEC = RuleSpec(
    "bayes_srpt_heavy",
    "expected remaining rounds under the length law that fits best",
    bayes_srpt_heavy,
    (OVERRUN, WEIGHT),
    fitted=limited_laws,
    by_category=True,
)
