"""An episode of a policy, for its timeline."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

import laps_env
from laps_env import policies
from laps_env.evaluation.play import play
from laps_env.evaluation.runner import parts_of
from laps_env.policies import Policy
from laps_env.report.timeline import Timeline, TimelineRecorder
from laps_env.workloads.predictors import PredictorError
from laps_env.workloads.scenarios import Scenario, get_scenario

#: Entries of a results row that are options of the environment.
_CONDITIONS = ("load", "num_requests", "predictor_error", "split", "slots")


def record_policy(
    policy: str | Policy,
    seed: int,
    *,
    scenario: str | Scenario,
    predictor_error: PredictorError = None,
    **options: Any,
) -> Timeline:
    """The timeline of a policy on the workload of a seed.

    Args:
        policy: one, or a name for `laps_env.policies.make`.
        seed: of the workload.
        scenario: one, or its name.
        predictor_error: what the policy knows and the workload has, as in an evaluation.
        **options: others of `laps_env.envs.replay.SpecDecodeReplay`.

    Raises:
        ValueError: an unknown policy or an option out of range.
    """
    scenario = get_scenario(scenario)
    if isinstance(policy, str):
        policy = policies.make(policy, scenario, predictor_error=predictor_error)
    env = gym.make(
        laps_env.REPLAY_IDS[0],
        scenario=scenario,
        predictor_error=predictor_error,
        draft_length=policy.draft_length,
        **options,
    )
    recorder = TimelineRecorder(env, policy.name)
    play(policy, recorder, options={"workload_seed": seed})
    assert recorder.timeline is not None  # it was reset
    return recorder.timeline


def record_row(row: dict[str, Any], episode: int) -> Timeline:
    """The timeline of one workload of a results row, bit for bit what was evaluated.

    Args:
        row: from the ``rows`` of a results file, written by the same code.
        episode: index into the row's ``seeds``.

    Raises:
        ValueError: a recording or a rule's own file is not the one that the row was made from.
    """
    policy, _, scenario = parts_of(row, episode)
    options = {name: row[name] for name in _CONDITIONS}
    return record_policy(policy, row["seeds"][episode], scenario=scenario, **options)
