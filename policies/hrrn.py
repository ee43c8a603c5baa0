"""Highest response ratio next: the longest wait in proportion to the estimated time.

Source: Brinch Hansen, "An analysis of response ratio scheduling", IFIP Congress 1971; SGLang
(release 0.5.23) has it among its orders of the waiting queue. The response ratio is (waiting +
service) / service; a started request is never left. Assumed: the service is the predicted length at
the category's mean tokens per round and at the server's present duration of a round.
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.remaining import work_s
from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.policies.category_shrunk import category_speeds
from laps_env.sim.observation import CATEGORY, PREDICTED_TOKENS, ROUNDS, WAITING_S
from laps_env.utils.jit import rule


@rule
def hrrn(row: Any, server: Any, params: Any, memory: Any) -> float:
    """One over the response ratio, which is at most 1; before all of them what has started."""
    if row[ROUNDS] > 0:
        return 0.0
    service = work_s(server, row[PREDICTED_TOKENS], params[int(row[CATEGORY])])
    return service / (row[WAITING_S] + service)


SPEC = RuleSpec(
    "hrrn",
    "highest response ratio next, on the estimated time",
    hrrn,
    fitted=category_speeds,
    by_category=True,
)
