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
from laps_env.policies.base.posterior import LAW_SIZE, law_in_force, posterior_log_rest, told_at
from laps_env.policies.base.remaining import OVERRUN, remaining_tokens, shrunk_tokens_per_round
from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.policies.base.traffic_model import Floats, TrafficModel, with_rests
from laps_env.policies.category_shrunk import WEIGHT
from laps_env.policies.gittins import with_laws
from laps_env.sim.observation import CATEGORY, GENERATED_TOKENS
from laps_env.utils.jit import rule

_LIMIT, _FITTED = 2, 3
_SIZE = 2 * (LAW_SIZE + TABLE_SIZE)


@rule
def bayes_srpt_heavy(row: Any, server: Any, params: Any, memory: Any) -> float:
    """Expected remaining rounds."""
    first = _FITTED + _SIZE * int(row[CATEGORY])
    laws = params[first : first + _SIZE]
    law = laws[law_in_force(row, laws) :]
    told = told_at(row, law)
    length = told + limited_mean(posterior_log_rest(row, law), params[_LIMIT], law[LAW_SIZE:])
    speed = shrunk_tokens_per_round(row, law[0], params[1])
    return remaining_tokens(row, length, params[0] * (row[GENERATED_TOKENS] - told)) / speed


def limited_laws(traffic: TrafficModel) -> Floats:
    """Log of the limit; then each category's laws with tables of limited means, flat."""
    laws = with_rests(traffic, _laws_and_means)
    return np.concatenate([[math.log(traffic.longest_tokens)], laws])


def _laws_and_means(traffic: TrafficModel) -> Floats:
    fitted = zip(traffic.scale, traffic.heaviness, strict=True)
    return with_laws(traffic, [limited_mean_table(*law) for law in fitted])


SPEC = RuleSpec(
    "bayes_srpt_heavy",
    "expected remaining rounds under the length law that fits best",
    bayes_srpt_heavy,
    (OVERRUN, WEIGHT),
    fitted=limited_laws,
    by_category=True,
)
