"""Least attained service over K queues (multi-level feedback), first come first served inside one.

Source: Nuyens and Wierman, "The Foreground-Background queue: a survey", Performance Evaluation 65
(2008); with queues as in Tiresias, Gu et al., NSDI 2019, section 3.2. Queue k holds requests whose
attained service is below quantum * growth^k.
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.rule_spec import Parameter, RuleSpec
from laps_env.sim.observation import ATTAINED_S
from laps_env.utils.jit import inlined, rule

QUEUES = Parameter("queues", 6, 2, 12, "number of priority queues", integer=True)
QUANTUM = Parameter("quantum_s", 0.1, 0.01, 30.0, "service that the first queue covers", log=True)
GROWTH = Parameter("growth", 2.0, 1.2, 6.0, "growth of the service covered from queue to queue")

#: No more are looked through: with a growth of 1 or less none of them may cover the service.
_MOST_QUEUES = 1000.0


@inlined
def queue_of(service_s: float, queues: float, quantum_s: float, growth: float) -> int:
    """The first queue, 0 .. queues - 1, that covers an amount of service."""
    level, covered, last = 0, quantum_s, min(queues, _MOST_QUEUES) - 1
    while service_s >= covered and level < last:
        covered *= growth
        level += 1
    return level


@rule
def las(row: Any, server: Any, params: Any, memory: Any) -> float:
    """The queue of the attained service; ties go to the earlier arrival."""
    return queue_of(row[ATTAINED_S], params[0], params[1], params[2])


SPEC = RuleSpec("las", "least attained service, multi-level", las, (QUEUES, QUANTUM, GROWTH))
