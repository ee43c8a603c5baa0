"""The live server's step log says what happened, and what rounds cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("scipy")

from tiny_models import tiny_pair

import laps_env
from laps_env import policies
from laps_env.evaluation.episodes import play
from laps_env.live.measure.log_costs import fit_log
from laps_env.traces.importers import import_steps, read_arrivals
from laps_env.traces.importers.step_lines import read_steps

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_log_of_two_episodes_is_read_back(tmp_path: Path) -> None:
    """By the calibrated clock, so that the log's durations are the cost model's."""
    log = tmp_path / "steps.jsonl"
    env: Any = gym.make(
        laps_env.LIVE_ID,
        target=tiny_pair(),
        max_new_tokens=24,
        clock="calibrated",
        scenario="demo",
        load=3.0,
        num_requests=14,
        slots=6,
        batch_size=3,
        draft_length=4,
        pool_tokens=120,  # evictions
        step_log=log,
    ).unwrapped
    rule = policies.make("las", "demo")
    summaries = [play(rule, env, seed=seed)["summary"] for seed in (1, 2)]
    workload = env._envs.workload()
    trace = import_steps(log)
    assert trace.num_requests == 28
    assert sorted(trace.output_tokens[14:]) == sorted(workload.output_tokens)
    assert set(trace.categories) <= set(workload.categories)
    assert trace.predicted_tokens is not None
    arrivals = read_arrivals(log)
    gaps = np.diff(arrivals.arrival_ns[14:]) * 1e-9
    assert gaps == pytest.approx(np.diff(workload.arrival_ns) * 1e-9, abs=3e-6)
    header, steps = read_steps(log)
    assert (header.drafter, header.batch_size, header.draft_length) == ("draft_model", 3, 4)
    shares = [share for step in steps for share in step.requests]
    assert len(steps) == sum(summary["rounds"] for summary in summaries)
    assert len(shares) > sum(share.cached > 0 for share in shares) > 28
    cost = env.options.server.cost
    fitted = fit_log(steps)
    assert fitted.errors["round"]["mean"] < 0.02
    assert fitted.cost.target_token_ns == pytest.approx(cost.target_token_ns, rel=0.1)
