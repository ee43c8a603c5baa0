"""First come, first served, run to completion: the order of continuous batching (Orca, vLLM).

Source: Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models",
OSDI 2022, section 4 (iteration-level scheduling in order of arrival).
"""

from __future__ import annotations

from typing import Any

from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.sim.observation import ARRIVAL_NUMBER
from laps_env.utils.jit import rule


@rule
def fcfs(row: Any, server: Any, params: Any, memory: Any) -> float:
    """The earliest arrival."""
    return row[ARRIVAL_NUMBER]


SPEC = RuleSpec("fcfs", "first come, first served", fcfs)
