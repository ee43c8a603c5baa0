"""What recorded requests are like by category, and whether they change over the recording."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from laps_env.traces.schema import TraceError
from laps_env.traces.trace import AcceptanceTrace

Floats = NDArray[np.float64]

#: Standard errors on either side of an interval of 95 %.
SIGMAS = 1.96


class CategorySummary(NamedTuple):
    """The requests of a category.

    Attributes:
        name: Name of the category.
        requests: Their number.
        prompt_tokens, output_tokens: Mean lengths.
        output_log_sd: Standard deviation of the log of output lengths.
        acceptance: Share of the positions where a first draft token is accepted.
        predictor_bias: Mean of log(predicted / true length); None without predictions.
        predictor_error: Standard deviation of it; likewise.
    """

    name: str
    requests: int
    prompt_tokens: float
    output_tokens: float
    output_log_sd: float
    acceptance: float
    predictor_bias: float | None
    predictor_error: float | None


class Drift(NamedTuple):
    """A quantity in the second half of a recording over that in the first.

    Attributes:
        name: What it is.
        ratio: Mean of the second half over that of the first.
        interval: 95 % interval over requests, as if each were drawn by itself.
    """

    name: str
    ratio: float
    interval: tuple[float, float]

    @property
    def told(self) -> bool:
        """Whether the halves are told apart."""
        return not self.interval[0] <= 1 <= self.interval[1]


def summarize_trace(trace: AcceptanceTrace) -> list[CategorySummary]:
    """Each category that has requests."""
    found = []
    for number, name in enumerate(trace.categories):
        members = np.flatnonzero(trace.category == number)
        if not members.size:
            continue
        of_it = trace.select(members)
        errors = _prediction_errors(of_it)
        found.append(
            CategorySummary(
                name,
                members.size,
                float(of_it.prompt_tokens.mean()),
                float(of_it.output_tokens.mean()),
                float(np.log(of_it.output_tokens).std()),
                float((of_it.accepted_length > 0).mean()),
                None if errors is None else float(errors.mean()),
                None if errors is None else float(errors.std()),
            )
        )
    return found


def drift_of(trace: AcceptanceTrace) -> list[Drift]:
    """What may change from the first half of a recording to the second, in its own order.

    Lengths, acceptance and predicted over true length are compared within each category, so that
    another mix is not taken for other requests; the mix has its own entries.

    Args:
        trace: At least four requests.

    Raises:
        TraceError: Fewer.
    """
    if trace.num_requests < 4:
        raise TraceError(f"{trace.source}: requests: expected at least 4, got {trace.num_requests}")
    late = np.arange(trace.num_requests) >= trace.num_requests // 2
    quantities = {
        "output tokens": trace.output_tokens.astype(np.float64),
        "accepted first drafts": _accepted_share(trace),
    }
    if (errors := _prediction_errors(trace)) is not None:
        quantities["predicted / true length"] = np.exp(errors)
    found = [
        _drift(name, _relative(values, trace.category), late) for name, values in quantities.items()
    ]
    for number, name in enumerate(trace.categories):
        share = (trace.category == number).astype(np.float64)
        if share.any():
            found.append(_drift(f"share of {name}", share, late))
    return found


def _prediction_errors(trace: AcceptanceTrace) -> Floats | None:
    """Log of predicted over true length, [R]."""
    if trace.predicted_tokens is None:
        return None
    errors: Floats = np.log(trace.predicted_tokens / trace.output_tokens)
    return errors


def _accepted_share(trace: AcceptanceTrace) -> Floats:
    """Share of each request's positions where a first draft token is accepted, [R]."""
    accepted = np.add.reduceat(trace.accepted_length > 0, trace.offset[:-1], dtype=np.int64)
    return np.asarray(accepted / trace.output_tokens)


def _relative(values: Floats, category: NDArray[np.int64]) -> Floats:
    """Values over the mean of their category; 1 where that is 0."""
    means = np.bincount(category, values) / np.maximum(np.bincount(category), 1)
    means = means[category]
    return np.divide(values, means, out=np.ones_like(values), where=means > 0)


def _drift(name: str, values: Floats, late: NDArray[np.bool_]) -> Drift:
    """A comparison, by the delta method for the log of a ratio.

    What only one half has counts half a request in the other, so that its ratio has an interval.
    """
    halves = values[~late], values[late]
    sums = [max(float(half.sum()), 0.5 * float(values.max())) for half in halves]
    spread = [float(((half - half.mean()) ** 2).sum()) for half in halves]
    least = 0.5 * float(values.max()) ** 2  # of a half that has none, or all alike
    variance = sum(max(s, least) / total**2 for s, total in zip(spread, sums, strict=True))
    ratio = (sums[1] / halves[1].size) / (sums[0] / halves[0].size)
    factor = math.exp(SIGMAS * math.sqrt(variance))
    return Drift(name, ratio, (ratio / factor, ratio * factor))
