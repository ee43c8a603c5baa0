"""What refreshed predictions are worth, and what is known of the rest of a request.

The tables of docs/physics.md. *Test* workloads, load 0.9: mean latency of each rule with refreshes
over its own without, on the same workloads; then the error of what is taken to be left. Generated
scenarios, whose refreshes are assumed, at two readings of TRAIL's published errors; and recorded
ones, where the traces have refreshes, as they are and smoothed over time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.evaluation.grid import Grid
from laps_env.evaluation.runner import Evaluation
from laps_env.evaluation.statistics import ratio_with_interval
from laps_env.policies.base.traffic_model import LengthLaws, fit_traffic_model
from laps_env.report.tables import markdown_table
from laps_env.report.verdict import told
from laps_env.traces import AcceptanceTrace
from laps_env.utils.splits import Split
from laps_env.workloads.predictors import REFRESHED
from laps_env.workloads.refreshes import REFRESH_ERROR, REFRESH_EVERY
from laps_env.workloads.requests import GeneratedRequests, RecordedRequests
from laps_env.workloads.scenarios import Scenario, get_scenario

Floats = npt.NDArray[np.float64]

SERIAL = ("mixed-serial-8b", "chat-serial-8b", "mixed-serial-135m")
BATCH = ("mixed-batch8-8b", "mixed-batch8-135m")
RULES = (
    *("laps_sd_tuned", "sprpt", "trail", "bayes_srpt_tuned", "gittins_tuned", "learned"),
    "oracle_srpt",
)
#: Of what is left, as much below the prompt's as published; and so large that the mean over all
#: tokens of the answers is, where it shrinks as they come to an end.
ERRORS = (REFRESH_ERROR, 2 * REFRESH_ERROR)
SMOOTHED = "recorded, smoothed"
#: Generated tokens at which the rest is predicted, the refreshes' own.
AGES = REFRESH_EVERY * np.arange(5)
REQUESTS = 20_000

_QUANTILES = (np.arange(999) + 0.5) / 999


def main() -> None:
    """Print both tables."""
    named = [case for name in SERIAL + BATCH for case in cases(get_scenario(name))]
    gains = [
        [f"`{scenario.name}`", error, *gains_of(scenario)]
        for scenario, error in named
        if scenario.requests.has_refreshes
    ]
    print(markdown_table(("scenario", "error", *(f"`{rule}`" for rule in RULES)), gains))
    print()
    # the batched scenarios have the requests of the serial ones
    serial = [case for name in SERIAL for case in cases(get_scenario(name))]
    errors = [row for scenario, error in serial for row in errors_of(scenario, error)]
    print(markdown_table(("scenario", "what is left by", *map(str, AGES)), errors))


def cases(scenario: Scenario) -> Iterator[tuple[Scenario, str]]:
    """A scenario at each error of its refreshes, with that in words."""
    requests = scenario.requests
    if isinstance(requests, RecordedRequests):
        yield scenario, "recorded"
        parts: dict[str, Any] = {
            name: smoothed(getattr(requests, name)) for name in ("train", "test")
        }
        yield replace(scenario, requests=replace(requests, **parts)), SMOOTHED
        return
    assert isinstance(requests, GeneratedRequests)  # there are no others
    for error in ERRORS:
        yield replace(scenario, requests=replace(requests, refresh_error=error)), f"{error:.2f}"


def smoothed(trace: AcceptanceTrace) -> AcceptanceTrace:
    """Refreshes that move what was told before, less what has come since, half of the way in logs.

    A simple form of what TRAIL does with its own.
    """
    if trace.refreshed_tokens is None or trace.predicted_tokens is None:
        raise ValueError(f"{trace.source}: expected predictions and refreshes, got none")
    tokens = np.array(trace.refreshed_tokens)
    every, ends = trace.info.refresh_every, trace.refresh_offset[1:]
    for first, end, latest in zip(trace.refresh_offset, ends, trace.predicted_tokens, strict=False):
        for k in range(first, end):
            generated = (k - first + 1) * every
            before, now = max(latest - generated, 1.0), max(tokens[k] - generated, 1.0)
            latest = tokens[k] = generated + math.sqrt(before * now)
    return replace(trace, refreshed_tokens=tokens)


def gains_of(scenario: Scenario) -> list[str]:
    """Mean latency of each rule with refreshes over without, with its paired interval."""
    latencies = []
    for error in (None, REFRESHED):
        grid = Grid(RULES, (scenario,), (0.9,), predictor_error=error)
        evaluation = Evaluation(grid)
        evaluation.run()
        rows = {row.policy: row for row in evaluation.results().rows}
        latencies.append({rule: np.array(rows[rule].episode_mean_latency_s) for rule in RULES})
    without, with_them = latencies
    return [told(*ratio_with_interval(with_them[rule], without[rule]), 3) for rule in RULES]


def errors_of(scenario: Scenario, error: str) -> Iterator[list[str]]:
    """Deviation from log(what is left), of requests that have generated so much, by its source."""
    refreshes = scenario.requests.has_refreshes
    source = REFRESHED if refreshes else None
    laws = fit_traffic_model(scenario, source)
    workload = scenario.workload(
        load=0.9, num_requests=REQUESTS, split=Split.TEST, predictor_error=source
    )
    found: dict[str, list[float]] = {}
    for k, age in enumerate(AGES):
        alive = np.flatnonzero(workload.output_tokens > age)
        predicted, category = workload.predicted_tokens[alive], workload.category[alive]
        guesses = {
            "prompt's prediction - generated": np.log(np.maximum(predicted - age, 1.0)),
            "its law, given what is generated": conditioned(laws, predicted, category, float(age)),
        }
        if refreshes and workload.refreshed_tokens is not None:
            rest, law = predicted, laws
            if k > 0:
                latest = workload.refreshed_tokens[workload.refresh_offset[alive] + k - 1]
                rest, law = np.maximum(latest - age, 1.0), laws.of_rests()
            guesses[f"refreshed, error {error}"] = np.log(rest)
            guesses[f"its law, error {error}"] = conditioned(law, rest, category, 0)
        true = np.log(workload.output_tokens[alive] - age)
        for name, guess in guesses.items():
            found.setdefault(name, []).append(math.sqrt(float(((guess - true) ** 2).mean())))
    for name, deviations in found.items():
        # the prompt's are the same in all
        if error not in (f"{ERRORS[-1]:.2f}", SMOOTHED) or error in name:
            yield [f"`{scenario.name}`", name, *(f"{value:.2f}" for value in deviations)]


def conditioned(
    laws: LengthLaws, told_tokens: Floats, category: npt.NDArray[np.int64], age: float
) -> Floats:
    """Mean of log(L - age) given L > age, under the law of each request's category."""
    middle = laws.weight[category] * np.log(told_tokens) + laws.offset[category]
    deviation = np.sqrt(laws.variance)[category]
    below = normal((math.log(age) - middle) / deviation) if age else np.zeros_like(middle)
    beyond = np.clip(below[:, None] + (1 - below)[:, None] * _QUANTILES, 1e-12, 1 - 1e-12)
    z = np.interp(beyond, normal(_GRID), _GRID)
    lengths = np.exp(middle[:, None] + deviation[:, None] * z)
    means: Floats = np.log(np.maximum(lengths - age, 1.0)).mean(axis=1)
    return means


def normal(z: Floats) -> Floats:
    """Distribution function of the standard normal law."""
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z])


_GRID = np.linspace(-7.0, 7.0, 4001)


if __name__ == "__main__":
    main()
