"""Random order: a fresh, uniform choice in every round, the floor that every rule should beat.

A rule has no generator of its own; it hashes what it sees (splitmix64 finaliser), so the same
episode is played again from the same seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from laps_env.policies.base.rule_spec import RuleSpec
from laps_env.sim.observation import ARRIVAL_NUMBER, ROUNDS, WAITING_S
from laps_env.utils.jit import rule


@rule
def random_order(row: Any, server: Any, params: Any, memory: Any) -> float:
    """A number in [0, 1) of this request and this moment."""
    x = np.uint64(row[ARRIVAL_NUMBER] * 1048576.0 + row[ROUNDS])
    x ^= np.uint64(row[WAITING_S] * 1e9) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float64((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


SPEC = RuleSpec("random", "uniformly random in every round", random_order)
