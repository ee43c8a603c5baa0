"""Scheduling policies: one file per rule, made by name.

``make("laps_sd")`` is the rule with published or default constants, ``make("laps_sd_tuned",
scenario)`` with those tuned on the scenario's *validation* split, and ``+smartspec`` after either
adds the draft-length rule of `laps_env.sim.draft_length`. Everything that a file with your own rule
needs comes from here: `rule`, `RuleSpec`, `Parameter`, and the names of the observation's columns.
"""

from __future__ import annotations

if __name__ != "laps_env.policies":  # a second copy would have classes of its own
    raise ImportError(f"expected laps_env.policies, got {__name__}: import laps_env.policies")

from laps_env.catalog import list_policies
from laps_env.policies._registry import get_rule, make, with_settings
from laps_env.policies.base.policy import Policy
from laps_env.policies.base.rule_spec import Parameter, RuleSpec
from laps_env.policies.base.traffic_file import Traffic, read_traffic
from laps_env.sim.observation import (
    ACCEPTED,
    ARRIVAL_NUMBER,
    ATTAINED_S,
    BACKLOG,
    BATCH_SIZE,
    CACHED,
    CATEGORY,
    DRAFT_LENGTH,
    DRAFT_STEP_S,
    DRAFTED,
    FINISH_LEFT_S,
    FIRST_TOKEN_LEFT_S,
    FREE_CACHE_TOKENS,
    GENERATED_TOKENS,
    IDLE_ROUNDS,
    IDLE_S,
    LAST_ACCEPTED,
    LAST_DRAFTED,
    LOAD_ESTIMATE,
    NEXT_TOKEN_LEFT_S,
    OCCUPIED,
    PICKED,
    PREDICTED_TOKENS,
    PROMPT_TOKENS,
    RAN,
    ROUNDS,
    SELECTABLE,
    SINCE_ARRIVAL_S,
    VERIFY_S,
    WAITING_S,
    WINDOW_ACCEPTANCE,
    WINDOW_SPREAD,
)
from laps_env.utils.jit import inlined, prepare, rule

__all__ = [
    "ACCEPTED",
    "ARRIVAL_NUMBER",
    "ATTAINED_S",
    "BACKLOG",
    "BATCH_SIZE",
    "CACHED",
    "CATEGORY",
    "DRAFTED",
    "DRAFT_LENGTH",
    "DRAFT_STEP_S",
    "FINISH_LEFT_S",
    "FIRST_TOKEN_LEFT_S",
    "FREE_CACHE_TOKENS",
    "GENERATED_TOKENS",
    "IDLE_ROUNDS",
    "IDLE_S",
    "LAST_ACCEPTED",
    "LAST_DRAFTED",
    "LOAD_ESTIMATE",
    "NEXT_TOKEN_LEFT_S",
    "OCCUPIED",
    "PICKED",
    "PREDICTED_TOKENS",
    "PROMPT_TOKENS",
    "RAN",
    "ROUNDS",
    "SELECTABLE",
    "SINCE_ARRIVAL_S",
    "VERIFY_S",
    "WAITING_S",
    "WINDOW_ACCEPTANCE",
    "WINDOW_SPREAD",
    "Parameter",
    "Policy",
    "RuleSpec",
    "Traffic",
    "get_rule",
    "inlined",
    "list_policies",
    "make",
    "prepare",
    "read_traffic",
    "rule",
    "with_settings",
]
