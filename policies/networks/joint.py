"""A learned scheduler that decides the order and how much is drafted, from laws that follow.

The order is a weighted sum of what is known of a request, lowest first, as in
`laps_env.policies.networks.index`, under laws that follow the traffic
(`laps_env.policies.base.running_law`). How far a request drafts departs from what is best for the
scenario as a whole (`laps_env.policies.base.draft_by_confidence`) by `DRAFT_FEATURES` g:

    longest   = (its longest + 1/2) * exp(m g) tokens, at most 16
    threshold : its odds * exp(t g), of the product of the draft's confidences

The weights are found by the search of `laps_env.agents.index_search`, which begins at
`gittins_running` with that best draft (`START`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from laps_env.policies.base.posterior import LAW_SIZE, OFFSET, SPEED, VARIANCE
from laps_env.policies.base.remaining import shrunk_tokens_per_round
from laps_env.policies.base.rule_spec import Parameter, RuleSpec
from laps_env.policies.base.running_law import (
    CATEGORIES,
    LAWS,
    MEMORY,
    PER_SLOT,
    SHARED,
    follow,
    laws_place,
)
from laps_env.policies.base.traffic_model import Floats, TrafficModel
from laps_env.policies.gittins import INDEX_SIZE, POINTS
from laps_env.policies.gittins_running import TABLES, between_tables, laws_and_tables
from laps_env.policies.networks.features import (
    REQUEST_FEATURES,
    SPEED_WEIGHT,
    Feature,
    describe_request,
)
from laps_env.sim.confidence import Confident
from laps_env.sim.observation import (
    BACKLOG,
    BATCH_SIZE,
    CACHED,
    CATEGORY,
    GENERATED_TOKENS,
    OCCUPIED,
    PROMPT_TOKENS,
    RAN,
)
from laps_env.utils.jit import inlined, prepare, rule

#: What the order goes by: where caches do not fit, it matters whose is there and how large it is.
ORDER_FEATURES = (
    *REQUEST_FEATURES,
    Feature("context", "log(1 + context tokens) / 8", "length"),
    Feature("restore", "the same where its cache has to be computed, else 0", "service"),
    Feature("going", "the residual where it was in the last round, else 0", "service"),
)
DRAFT_FEATURES = (
    Feature("one", "1", "server"),
    Feature("occupancy", "log of the requests in a round / 4", "server"),
    Feature("queue", "log(1 + requests that wait, those beyond the table too) / 4", "server"),
    Feature("speed", "log of the category's tokens per round", "category"),
    Feature("surprise", "log(own tokens per round, shrunk / the category's)", "acceptance"),
    Feature("residual", "log expected remaining rounds, given the tokens so far / 4", "category"),
)

_REQUEST, _ORDER, _DRAFT = len(REQUEST_FEATURES), len(ORDER_FEATURES), len(DRAFT_FEATURES)
#: Weights: of the order, of the longest draft, of the threshold.
WEIGHTS = _ORDER + 2 * _DRAFT
#: The Gittins index, and the scenario's best draft.
START = np.zeros(WEIGHTS)
START[[feature.name for feature in ORDER_FEATURES].index("gittins")] = 1

#: What is best for a scenario as a whole; `laps_env.policies.make` fills them in.
PARAMETERS = (
    Parameter("threshold", Confident().threshold, 0.0, 1.0, "product of confidences"),
    Parameter("most", Confident().most, 0, 16, "longest draft", integer=True),
)
_FIRST = len(PARAMETERS)
_LAWS = _FIRST + WEIGHTS
_TABLES = _LAWS + CATEGORIES * LAWS
_COUNT = _TABLES + TABLES * POINTS

#: A threshold of 0 has no odds to depart from.
_LEAST = 1e-3

#: Cells at the end: the laws in the layout of `laps_env.policies.gittins.index_tables` for each
#: category; requests in a round, requests that wait.
_OWN = CATEGORIES * INDEX_SIZE + 2


@prepare
def learn(queue: Any, server: Any, params: Any) -> None:
    """Follow the traffic, tabulate the laws, and count."""
    follow(queue, server, MEMORY.default, params[_LAWS:])
    own = server[server.size - _OWN :]
    for c in range(int(params[_COUNT])):
        first = laws_place(c)
        for begin in range(0, 2 * LAW_SIZE, LAW_SIZE):
            now = server[first + begin : first + begin + LAW_SIZE]
            place = INDEX_SIZE * c + begin // LAW_SIZE * (INDEX_SIZE // 2)
            tabulate(now, params[_TABLES:], own[place : place + INDEX_SIZE // 2])
    present = 0
    for k in range(queue.shape[0]):
        present += 1 if queue[k, OCCUPIED] == 1 else 0
    served = min(float(present), server[BATCH_SIZE])
    own[_OWN - 2] = served
    own[_OWN - 1] = present - served + server[BACKLOG]


@inlined
def tabulate(now: Any, tables: Any, law: Any) -> None:
    """Write a law with its index table, where it has changed."""
    if law[SPEED] != now[SPEED] or law[VARIANCE] != now[VARIANCE] or law[OFFSET] != now[OFFSET]:
        for j in range(LAW_SIZE):
            law[j] = now[j]
        between_tables(now[VARIANCE], tables, law[LAW_SIZE:])


@inlined
def weighted(weights: Any, features: Any, count: int) -> float:
    """Sum of so many features, weighted."""
    total = 0.0
    for i in range(count):
        total += weights[i] * features[i]
    return total


@rule
def joint(row: Any, server: Any, params: Any, memory: Any) -> float:
    """The weighted sum; memory ends with the longest draft and the threshold."""
    own = server[server.size - _OWN :]
    first = INDEX_SIZE * int(row[CATEGORY])
    laws = own[first : first + INDEX_SIZE]
    describe_request(row, server, laws, memory)
    memory[_REQUEST] = math.log1p(row[PROMPT_TOKENS] + row[GENERATED_TOKENS]) / 8
    memory[_REQUEST + 1] = (1.0 - row[CACHED]) * memory[_REQUEST]
    memory[_REQUEST + 2] = row[RAN] * memory[0]
    g = memory[_ORDER : _ORDER + _DRAFT]
    usual = laws[SPEED]
    speed = shrunk_tokens_per_round(row, usual, SPEED_WEIGHT)
    g[0] = 1.0
    g[1] = math.log(max(own[_OWN - 2], 1.0)) / 4
    g[2] = math.log1p(own[_OWN - 1]) / 4
    g[3] = math.log(usual)
    g[4] = math.log(speed / usual)
    g[5] = memory[0]
    weights = params[_FIRST:]
    longer = weighted(weights[_ORDER:], g, _DRAFT)
    surer = weighted(weights[_ORDER + _DRAFT :], g, _DRAFT)
    chance = min(max(params[0], _LEAST), 1.0 - _LEAST)
    odds = chance / (1.0 - chance) * math.exp(min(max(surer, -9.0), 9.0))
    memory[_ORDER + _DRAFT] = math.floor((params[1] + 0.5) * math.exp(min(max(longer, -9.0), 9.0)))
    memory[_ORDER + _DRAFT + 1] = odds / (1.0 + odds)
    return weighted(weights, memory, _ORDER)


@dataclass(frozen=True, eq=False)
class RunningWeights:
    """Constants of the rule: weights, running laws and tables, number of categories.

    Attributes:
        weights: Learned weights, float64, flat.
    """

    weights: Floats

    def __call__(self, traffic: TrafficModel) -> Floats:
        """Constants that follow the parameters (`RuleSpec.fitted`)."""
        return np.concatenate([self.weights, laws_and_tables(traffic), [traffic.weight.size]])


def make_spec(name: str, arrays: dict[str, Floats]) -> RuleSpec:
    """The rule with these weights.

    Args:
        name: Name of the policy.
        arrays: Weights by name: ``weights`` [33], of the 21 order features, then of the six of a
            draft for its longest (m), and for its threshold (t).

    Raises:
        ValueError: The arrays are others.
    """
    shape = np.shape(arrays.get("weights", ()))
    if shape != (WEIGHTS,):
        raise ValueError(f"joint: expected weights of shape ({WEIGHTS},), got {shape}")
    return RuleSpec(
        name,
        "learned order and draft length",
        joint,
        PARAMETERS,
        cells=_ORDER + _DRAFT + 2,
        prepare=learn,
        shared=SHARED + _OWN,
        shared_per_slot=PER_SLOT,
        keeps=True,
        fitted=RunningWeights(np.asarray(arrays["weights"], np.float64)),
        by_category=True,
        drafts=True,
    )
