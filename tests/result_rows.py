"""Results rows written by hand."""

from __future__ import annotations

from typing import Any

from laps_env.evaluation.recordings import Recordings
from laps_env.evaluation.results import Results, Row
from laps_env.sim import SIMULATOR_VERSION


def make_row(policy: str, mean: float = 1.0, p99: float = 2.0, **other: Any) -> Row:
    """A row of two workloads with the same latencies."""
    given: dict[str, Any] = {
        "scenario": "chat-serial-135m",
        "load": 0.9,
        "policy": policy,
        "reference": "laps_sd_tuned",
        "oracle": "oracle_srpt",
        "backend": "replay",
        "simulator": SIMULATOR_VERSION,
        "scenario_digest": "0123456789abcdef",
        "policy_digest": "fedcba9876543210",
        "parameters": {},
        "episodes": 2,
        "num_requests": 9,
        "split": "test",
        "seeds": [0, 1],
        "slots": 64,
        "predictor_error": 0.5,
        "batch_size": 1,
        "saturation_rps": 1.0,
        "source": {"acceptance": "by hand"},
        "filled_share": None,
        "recordings": Recordings(),
        "recording_digests": {},
        "mean_latency_s": mean,
        "mean_latency_ci95": None,
        "ratio_to_reference": 0.01,  # what a row says of itself does not count on the leaderboard
        "ratio_ci95": (0.01, 0.02),
        "iqm_ratio": 0.01,
        "iqm_ratio_ci95": None,
        "gap_closed": None,
        "p50_latency_s": 1.0,
        "p95_latency_s": 1.0,
        "p99_latency_s": p99,
        "mean_ttft_s": 1.0,
        "mean_tpot_s": 1.0,
        "jain_fairness": 1.0,
        "throughput_rps": 1.0,
        "preemptions": 0.0,
        "recomputed_tokens": 0.0,
        "max_slowdown": 1.0,
        "max_idle_s": 0.0,
        "scheduling_share": None,
        "episode_mean_latency_s": [mean, mean],
        "episode_p99_latency_s": [p99, p99],
    }
    return Row(**given | other)


def make_results(*rows: Row) -> Results:
    """Results of these rows."""
    return Results(created="2026-11-27T00:00:00+00:00", platform={}, rows=list(rows))
