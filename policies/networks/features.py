"""What the learned rules read: a request and the server in numbers of order one.

Times are in rounds (of the server's current duration), lengths in logarithms, so that a rule that
was learned on one server reads another the same way. What a category's requests are like comes from
the laws that the analytic rules also have (`laps_env.policies.base.traffic_model`, in the layout of
`laps_env.policies.gittins.index_tables`). Nothing that picking changes is read, so the picks of a
round can be chosen one by one or at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from laps_env.policies.base.posterior import MISFIT, law_in_force, posterior_log_rest, told_at
from laps_env.policies.base.remaining import (
    remaining_tokens,
    round_duration_s,
    shrunk_tokens_per_round,
)
from laps_env.policies.base.traffic_model import Floats, TrafficModel
from laps_env.policies.gittins import index_tables, index_tokens
from laps_env.sim.observation import (
    ACCEPTED,
    ATTAINED_S,
    BACKLOG,
    BATCH_SIZE,
    CACHED,
    DRAFTED,
    GENERATED_TOKENS,
    IDLE_S,
    LOAD_ESTIMATE,
    PREDICTED_TOKENS,
    PROMPT_TOKENS,
    RAN,
    ROUNDS,
    SINCE_ARRIVAL_S,
    WAITING_S,
    WINDOW_ACCEPTANCE,
    WINDOW_SPREAD,
)
from laps_env.utils.jit import inlined

#: Rounds that the category's mean speed counts for (analysis of public runs; `WEIGHT`).
SPEED_WEIGHT = 20.0


class Feature(NamedTuple):
    """One number: its name and what it is. ``about`` is what an ablation takes away with it."""

    name: str
    meaning: str
    about: str


REQUEST_FEATURES = (
    Feature("residual", "log expected remaining rounds, given the tokens so far / 4", "category"),
    Feature("gittins", "log of the Gittins index in rounds / 4", "category"),
    Feature("bayes", "log of Bayes SRPT's remaining rounds / 4", "category"),
    Feature("predicted", "log of (predicted - generated) tokens, in rounds / 4", "length"),
    Feature("deviation", "standard deviation of log length, given the prediction", "category"),
    Feature("misfit", "distance of log lengths from the law of the others", "category"),
    Feature("age", "log(1 + generated since the prediction / expected then)", "category"),
    Feature("surprise", "log(own tokens per round, shrunk / the category's)", "acceptance"),
    Feature("acceptance", "accepted / drafted so far", "acceptance"),
    Feature("window_acceptance", "accepted / drafted over the last rounds", "acceptance"),
    Feature("window_spread", "standard deviation of it over them", "acceptance"),
    Feature("rounds", "log(1 + rounds) / 4", "service"),
    Feature("attained", "log(1 + attained service, in rounds) / 4", "service"),
    Feature("waiting", "log(1 + time since arrival, in rounds) / 8", "time"),
    Feature("idle", "log(1 + time since its last round, in rounds) / 8", "time"),
    Feature("ran", "was in the last round, 0 or 1", "service"),
    Feature("cached", "its cache is on the device, 0 or 1", "service"),
    Feature("prompt", "log(1 + prompt tokens) / 8", "length"),
)

SERVER_FEATURES = (
    Feature("batch", "log(batch size) / 4", "server"),
    Feature("present", "log(1 + requests in the table) / 4", "server"),
    Feature("crowd", "requests in the table / (these + batch size)", "server"),
    Feature("backlog", "log(1 + requests beyond the table) / 4", "server"),
    Feature("load", "estimated load, at most 3", "server"),
    Feature("since_arrival", "log(1 + time since the latest arrival, in rounds) / 4", "server"),
)


@inlined
def describe_request(row: Any, server: Any, laws: Any, out: Any) -> None:
    """Fill ``out`` with `REQUEST_FEATURES`.

    Args:
        row: Request's row of ``observation["queue"]``.
        server: Array ``observation["server"]``.
        laws: Constants of the category (`laps_env.policies.gittins.index_tables`).
        out: Features, float [18] (written).
    """
    law = laws[law_in_force(row, laws) :]
    told, rounds = told_at(row, law), row[ROUNDS]
    since = row[GENERATED_TOKENS] - told
    round_s = round_duration_s(server)
    speed = shrunk_tokens_per_round(row, law[0], SPEED_WEIGHT)
    median_log, deviation = posterior_log_rest(row, law), math.sqrt(law[3])
    expected = math.exp(median_log + law[3] / 2)
    out[0] = math.log(residual_tokens(since, median_log, deviation) / speed) / 4
    out[1] = math.log(index_tokens(since, math.exp(median_log), law) / speed) / 4
    out[2] = math.log(remaining_tokens(row, told + expected, 0.0) / speed) / 4
    out[3] = math.log(remaining_tokens(row, row[PREDICTED_TOKENS], 0.0) / speed) / 4
    out[4] = deviation
    out[5] = law[MISFIT]
    out[6] = math.log1p(since / expected)
    out[7] = math.log(speed / law[0])
    out[8] = row[ACCEPTED] / max(row[DRAFTED], 1.0)
    out[9] = row[WINDOW_ACCEPTANCE]
    out[10] = row[WINDOW_SPREAD]
    out[11] = math.log1p(rounds) / 4
    out[12] = math.log1p(row[ATTAINED_S] / round_s) / 4
    out[13] = math.log1p(row[WAITING_S] / round_s) / 8
    out[14] = math.log1p(row[IDLE_S] / round_s) / 8
    out[15] = row[RAN]
    out[16] = row[CACHED]
    out[17] = math.log1p(row[PROMPT_TOKENS]) / 8


@inlined
def describe_server(server: Any, present: float, out: Any) -> None:
    """Fill ``out`` [6] with `SERVER_FEATURES`; ``present``: requests in the table."""
    out[0] = math.log(server[BATCH_SIZE]) / 4
    out[1] = math.log1p(present) / 4
    out[2] = present / (present + server[BATCH_SIZE])
    out[3] = math.log1p(server[BACKLOG]) / 4
    out[4] = min(server[LOAD_ESTIMATE], 3.0)
    out[5] = math.log1p(server[SINCE_ARRIVAL_S] / round_duration_s(server)) / 4


@inlined
def residual_tokens(generated: float, median_log: float, deviation: float) -> float:
    """E[L - g | L > g] for log L ~ Normal(median_log, deviation^2), at least one token.

    Where the length has long been passed, the tail of the law grows with what is generated: then a
    tenth of it.
    """
    expected = math.exp(median_log + deviation * deviation / 2)
    if generated < 1.0 or deviation < 1e-3:
        return max(expected - generated, 1.0)
    passed = (math.log(generated) - median_log) / deviation
    survival = math.erfc(passed / math.sqrt(2.0))
    if survival < 1e-9:
        return max(0.1 * generated, 1.0)
    beyond = expected * math.erfc((passed - deviation) / math.sqrt(2.0)) / survival
    return max(beyond - generated, 1.0)


@dataclass(frozen=True, eq=False)
class WeightsAndLaws:
    """Constants of a learned rule: its weights, then the categories' laws.

    Attributes:
        weights: Learned weights, float64, flat.
    """

    weights: Floats

    def __call__(self, traffic: TrafficModel) -> Floats:
        """Constants that follow the parameters (`RuleSpec.fitted`)."""
        return np.concatenate([self.weights, index_tables(traffic)])
