"""LAPS-SD with ageing: a request rises by a queue each time it has waited long enough.

Ours, to see what it costs `laps_env.policies.laps_sd` not to let the longest wait: the same queues
and estimates, but the queue counts one less for every ``patience_s`` since the request arrived,
also beyond the first queue, where those who have just come would pass it for ever. So nobody is
passed by a request that came more than queues * ``patience_s`` later. The paper is silent on
starvation.
"""

from __future__ import annotations

import math
from typing import Any

from laps_env.policies.base.rule_spec import Parameter, RuleSpec
from laps_env.policies.laps_sd import QUEUE
from laps_env.policies.laps_sd import SPEC as LAPS_SD
from laps_env.sim.observation import WAITING_S
from laps_env.utils.jit import inlined, rule

_PATIENCE = len(LAPS_SD.parameters)

#: LAPS-SD's own priority, for a rule to call.
_laps_sd = inlined(LAPS_SD.rule.function)


@rule
def laps_sd_ageing(row: Any, server: Any, params: Any, memory: Any) -> float:
    """LAPS-SD's queue and estimate, the queue less what it has risen."""
    risen = math.floor(row[WAITING_S] / params[_PATIENCE])
    return _laps_sd(row, server, params, memory) - QUEUE * risen


SPEC = RuleSpec(
    "laps_sd_ageing",
    "LAPS-SD, rising by a queue with every wait",
    laps_sd_ageing,
    (
        *LAPS_SD.parameters,
        Parameter("patience_s", 100.0, 1.0, 1000.0, "wait that raises it by a queue", log=True),
    ),
    cells=LAPS_SD.cells,
)
