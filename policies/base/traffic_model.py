"""What a rule may know of a scenario's traffic in advance, fitted on the *train* split."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from laps_env.policies.base.length_law import choose_law
from laps_env.sim.remaining_rounds import remaining_rounds
from laps_env.sim.server_model import ServerModel
from laps_env.sim.workload import Workload
from laps_env.workloads.predictors import PredictorError
from laps_env.workloads.scenarios import Scenario

Floats = npt.NDArray[np.float64]

#: Requests of the training sample, and its seed within the *train* split.
TRAINING_REQUESTS = 4000
TRAINING_SEED = 2**40

#: A category with fewer different training requests takes the law of all of them.
FEWEST_REQUESTS = 10


@dataclass(frozen=True)
class TrafficModel:
    """Per category: the output length given its prediction, and the speed of decoding.

    log L is normal around weight * log(prediction) + offset. For an unbiased log-normal predictor
    of error e and lengths of deviation t that is Bayes' rule, with weight t^2 / (t^2 + e^2); fitted
    as a line, it also holds for predictors that are cautious or biased.

    Attributes:
        weight, offset, variance: Line, and variance of log L around it, float64 [C].
        misfit: Largest difference between the distribution of log L around the line and the normal
            one (Kolmogorov's distance), float64 [C]: large where lengths are cut by a limit.
        heaviness, scale: Law around the line that fits best, normal or Student's t: one over its
            degrees of freedom (0: normal) and its scale, float64 [C].
        longest_tokens: Greatest output length.
        tokens: Mean of output tokens, float64 [C].
        tokens_per_round: Output tokens / rounds at the reference draft length, float64 [C].
        seconds_per_prefill_token, seconds_per_prefill: Cost of a prefill, from the cost model.
    """

    weight: Floats
    offset: Floats
    variance: Floats
    misfit: Floats
    heaviness: Floats
    scale: Floats
    longest_tokens: float
    tokens: Floats
    tokens_per_round: Floats
    seconds_per_prefill_token: float
    seconds_per_prefill: float


def fit_traffic_model(scenario: Scenario, predictor_error: PredictorError) -> TrafficModel:
    """Fit on `TRAINING_REQUESTS` requests of the *train* split, at the reference draft length."""
    return model_of(training_workload(scenario, predictor_error), scenario.server)


def training_workload(scenario: Scenario, predictor_error: PredictorError) -> Workload:
    """The requests that a traffic model is fitted on."""
    return scenario.workload(
        load=1.0,
        num_requests=TRAINING_REQUESTS,
        split="train",
        seed=TRAINING_SEED,
        predictor_error=predictor_error,
    )


def model_of(workload: Workload, server: ServerModel) -> TrafficModel:
    """Fit on all requests of a workload, at the server's reference draft length."""
    log_length = np.log(workload.output_tokens)
    to_go = remaining_rounds(workload, server.reference_draft_length)
    rounds = to_go[workload.offset[:-1]]
    drawn = _drawn(workload)
    members = [_members(workload, drawn, c) for c in range(len(workload.categories))]
    log_predicted = np.log(workload.predicted_tokens)
    lines = np.array([_line(log_predicted[m], log_length[m]) for m in members])
    laws = np.array(
        [
            choose_law(log_length[m] - weight * log_predicted[m] - offset, _halves(drawn[m]))
            for m, (weight, offset) in zip(members, lines[:, :2], strict=True)
        ]
    )
    return TrafficModel(
        weight=lines[:, 0],
        offset=lines[:, 1],
        variance=lines[:, 2],
        misfit=lines[:, 3],
        heaviness=laws[:, 0],
        scale=laws[:, 1],
        longest_tokens=float(workload.output_tokens.max()),
        tokens=np.array([workload.output_tokens[m].mean() for m in members]),
        tokens_per_round=np.array(
            [workload.output_tokens[m].sum() / rounds[m].sum() for m in members]
        ),
        seconds_per_prefill_token=server.cost.target_token_ns * 1e-9,
        seconds_per_prefill=server.cost.prefill_request_ns * 1e-9,
    )


def _drawn(workload: Workload) -> npt.NDArray[np.int64]:
    """Number [R] of the recorded or generated request that each is."""
    generated = np.arange(workload.output_tokens.size)
    return generated if workload.source_index is None else workload.source_index


def _members(
    workload: Workload, drawn: npt.NDArray[np.int64], category: int
) -> npt.NDArray[np.bool_]:
    """Requests [R] whose law is a category's: its own, or all where it has few different ones."""
    own = workload.category == category
    return own if np.unique(drawn[own]).size >= FEWEST_REQUESTS else np.ones_like(own)


def _halves(drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Half that each belongs to, so that one request drawn twice is in one half."""
    halves: npt.NDArray[np.bool_] = np.unique(drawn, return_inverse=True)[1] % 2 == 0
    return halves


def _line(x: Floats, y: Floats) -> tuple[float, float, float, float]:
    """Least squares y = weight * x + offset, 0 <= weight; variance and misfit of y around it."""
    weight = 0.0
    if x.min() < x.max():  # the variance of equal numbers is not always 0
        weight = max(float(np.cov(x, y, bias=True)[0, 1]) / float(x.var()), 0.0)
    offset = float(y.mean() - weight * x.mean())
    around = np.sort(y - weight * x - offset)
    return weight, offset, float(around.var()), _distance_to_normal(around)


def _distance_to_normal(ordered: Floats) -> float:
    """Kolmogorov's distance to the normal law with the same mean and variance."""
    sd = float(ordered.std())
    if sd == 0.0:
        return 0.0
    z = (ordered - ordered.mean()) / (sd * math.sqrt(2.0))
    normal = np.array([0.5 * math.erfc(-v) for v in z])
    ranks = np.arange(z.size + 1) / z.size
    return float(max((ranks[1:] - normal).max(), (normal - ranks[:-1]).max()))
