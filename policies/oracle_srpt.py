"""Oracle SRPT: the true remaining rounds, the clairvoyant reference; not a deployable policy.

Source: Schrage, "A proof of the optimality of the shortest remaining processing time discipline",
Operations Research 16 (1968): on a single server with free pre-emption no order has a lower mean
latency. With batches, prefill or evictions to pay it is a reference, not a bound.
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.utils.jit import rule


@rule
def oracle_srpt(row: Any, server: Any, params: Any, memory: Any) -> float:
    """The fewest rounds left, written into memory through the clairvoyant door."""
    return memory[0]


SPEC = RuleSpec("oracle_srpt", "true remaining rounds (clairvoyant)", oracle_srpt, clairvoyant=True)
