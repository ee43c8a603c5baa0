"""Laws of a scenario's traffic, fitted on its *train* set: what a rule may know in advance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from laps_env.kernel.foresight import rounds_to_go
from laps_env.scenarios import Scenario
from laps_env.workloads.prediction import LengthPredictor

Floats = npt.NDArray[np.float64]

#: Requests of the training sample, and its seed within the *train* set.
TRAINING_REQUESTS = 4000
TRAINING_SEED = 2**40

#: A category with fewer training requests takes the law of all of them.
FEWEST_REQUESTS = 20


@dataclass(frozen=True)
class Laws:
    """Per category: the output length and the speed of decoding; for all: the predictor's error.

    Attributes:
        log_mean, log_sd: float64 [C], of the natural log of output tokens.
        tokens_per_round: float64 [C], output tokens / rounds at the reference draft length.
        predictor_sd: standard deviation of log(predicted / true length).
        seconds_per_prefill_token, seconds_per_prefill: cost of a prefill, from the cost model.
    """

    log_mean: Floats
    log_sd: Floats
    tokens_per_round: Floats
    predictor_sd: float
    seconds_per_prefill_token: float
    seconds_per_prefill: float


def fit_laws(scenario: Scenario, predictor_error: float | LengthPredictor) -> Laws:
    """Fit on `TRAINING_REQUESTS` requests of the *train* set, at the reference draft length."""
    workload = scenario.workload(
        load=1.0,
        num_requests=TRAINING_REQUESTS,
        set_tag="train",
        seed=TRAINING_SEED,
        predictor_error=predictor_error,
    )
    log_length = np.log(workload.output_tokens)
    to_go = rounds_to_go(workload, scenario.server.reference_draft_length)
    rounds = to_go[workload.offset[:-1]]
    members = [
        workload.category == c
        if np.count_nonzero(workload.category == c) >= FEWEST_REQUESTS
        else np.ones(workload.num_requests, np.bool_)
        for c in range(len(workload.categories))
    ]
    cost = scenario.server.cost
    return Laws(
        log_mean=np.array([log_length[m].mean() for m in members]),
        log_sd=np.array([log_length[m].std() for m in members]),
        tokens_per_round=np.array(
            [workload.output_tokens[m].sum() / rounds[m].sum() for m in members]
        ),
        predictor_sd=float(np.log(workload.predicted_tokens / workload.output_tokens).std()),
        seconds_per_prefill_token=cost.target_token_ns * 1e-9,
        seconds_per_prefill=cost.prefill_request_ns * 1e-9,
    )
