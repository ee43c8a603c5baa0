"""Workloads from their addresses, and workloads that are recordings.

An address is (split, seed, episode): the same address is the same workload for every policy,
action, environment and machine word order.
"""

from __future__ import annotations

import numpy as np

from laps_env.sim.workload import LARGEST_PREDICTION, LEAST_PREDICTION, Workload
from laps_env.traces import AcceptanceTrace
from laps_env.utils.checks import MAX_SECONDS
from laps_env.utils.splits import Split
from laps_env.workloads.arrivals import ArrivalProcess
from laps_env.workloads.predictors import LengthPredictor
from laps_env.workloads.random import make_key
from laps_env.workloads.requests import RequestSource


def replay_recorded(trace: AcceptanceTrace) -> Workload:
    """Recorded requests with the recorded draft lengths, all present at time 0.

    Served by any policy, every round commits exactly what it committed when it was recorded.

    Args:
        trace: Trace with recorded rounds (``schedule``); unrecorded prompts count as 1 token.

    Raises:
        ValueError: The trace holds no rounds.
    """
    if trace.schedule is None or trace.schedule_offset is None:
        raise ValueError(f"{trace.source}: expected recorded rounds (schedule), got none")
    return Workload(
        arrival_ns=np.zeros(trace.num_requests, np.int64),
        prompt_tokens=np.maximum(trace.prompt_tokens, 1),
        output_tokens=np.asarray(trace.output_tokens),
        predicted_tokens=trace.output_tokens.astype(np.float64),
        category=np.asarray(trace.category),
        accepted_length=np.asarray(trace.accepted_length),
        max_draft=None if trace.max_draft is None else np.asarray(trace.max_draft),
        draft_schedule=np.asarray(trace.schedule),
        draft_schedule_offset=np.asarray(trace.schedule_offset),
        categories=trace.categories,
        source=f"recorded rounds of {trace.source}",
    )


def draw_workload(
    requests: RequestSource,
    arrivals: ArrivalProcess,
    predictor: LengthPredictor | None,
    *,
    split: Split,
    seed: int,
    episode: int,
    num_requests: int,
    mean_gap_s: float,
    confidences: bool = False,
) -> Workload:
    """Workload at an address.

    Args:
        requests: Source of the requests.
        arrivals: Arrival process, in gaps of mean 1.
        predictor: Length predictor; None where the requests bring predictions.
        split: Part of all traffic.
        seed: Seed, >= 0.
        episode: Number of the episode of one environment, >= 0.
        num_requests: Number of requests, >= 1.
        mean_gap_s: Seconds between arrivals on average, >= 0.
        confidences: Whether the draft's confidences are drawn too.

    Raises:
        ValueError: Arrivals lie so far apart that the last comes after `MAX_SECONDS`; or
            confidences are asked for where none were recorded.
    """
    key = make_key(split, seed)
    drawn = requests.draw(key, episode, num_requests, split, confidences=confidences)
    gaps = arrivals.gaps(key, episode, num_requests, split)
    if predictor is None:
        assert drawn.predicted_tokens is not None  # the scenario has looked
        predicted = drawn.predicted_tokens
    else:
        predicted = predictor.predict(key, episode, drawn.output_tokens)
    if drawn.shifts is not None:
        unseen = drawn.shifts.length[np.arange(num_requests), drawn.category]
        predicted = np.clip(predicted * np.exp(-unseen), LEAST_PREDICTION, LARGEST_PREDICTION)
        gaps = gaps * drawn.shifts.gap
    arrival_s = np.cumsum(gaps) * mean_gap_s
    if not arrival_s[-1] <= MAX_SECONDS:
        raise ValueError(
            f"load: expected the last of {num_requests} requests within {MAX_SECONDS:g} s, "
            f"got {arrival_s[-1]:g} s at a mean gap of {mean_gap_s:g} s"
        )
    return Workload(
        arrival_ns=np.rint(np.cumsum(gaps) * (mean_gap_s * 1e9)).astype(np.int64),
        prompt_tokens=drawn.prompt_tokens,
        output_tokens=drawn.output_tokens,
        predicted_tokens=predicted,
        category=drawn.category,
        accepted_length=drawn.accepted_length,
        max_draft=drawn.max_draft,
        confidence=drawn.confidence,
        source_index=drawn.source_index,
        categories=requests.categories,
        source=requests.name,
    )
