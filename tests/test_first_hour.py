"""What the first hour of training uses: a shared scorer, its judge, what is printed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from env_play import SEQUENTIAL, SLOTS, small

from laps_env import policies
from laps_env.envs.normalized import NormalizedVectorObservation
from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.sim.observation import ARRIVAL_NUMBER, OCCUPIED

torch = pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")

SMALL: dict[str, Any] = {
    "num_requests": 6,
    "slots": SLOTS,
    "load": 100.0,
    "autoreset_mode": "SameStep",
}


def servers(count: int, **options: Any) -> NormalizedVectorObservation:
    return NormalizedVectorObservation(SpecDecodeReplayVectorEnv(count, **SMALL, **options))


def crowded() -> tuple[Any, Any]:
    """Spaces, and observations of servers in which several wait."""
    envs = servers(3)
    observation, info = envs.reset(seed=0)
    for _ in range(20):
        actions = [int(np.flatnonzero(mask)[-1]) for mask in info["action_mask"]]
        observation, *_, info = envs.step(np.array(actions))
    assert observation["queue"][:, :, OCCUPIED].sum() > 6
    return envs, {name: torch.as_tensor(part) for name, part in observation.items()}


def test_a_shared_scorer_does_not_know_slots() -> None:
    """A permutation of the slots permutes the logits, and the value stays."""
    from laps_env.agents.queue_policy import NEVER, SharedScorer

    envs, observation = crowded()
    spaces = envs.single_observation_space, envs.single_action_space
    policy = SharedScorer(*spaces, lambda _: 1e-3)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = {**observation, "queue": observation["queue"][:, order]}
    with torch.no_grad():
        logits, permuted = (policy.logits(policy.describe(o)) for o in (observation, moved))
        values = [policy.predict_values(o) for o in (observation, moved)]
    assert torch.allclose(logits[:, order], permuted[:, :SLOTS], atol=1e-5)
    assert (logits[:, SLOTS] == NEVER).all()
    assert torch.allclose(*values, atol=1e-5)


class InOrder:
    """A model that serves in the order of arrival."""

    def predict(self, observation: Any, state: Any, **kwargs: Any) -> tuple[Any, Any]:
        assert kwargs["deterministic"]
        queue = observation["queue"]
        numbers = np.where(queue[:, :, OCCUPIED] == 1, queue[:, :, ARRIVAL_NUMBER], np.inf)
        actions = numbers.argmin(axis=1)
        assert kwargs["action_masks"][np.arange(len(actions)), actions].all()
        return actions, state


def test_a_judge_plays_models_as_it_plays_rules() -> None:
    from laps_env.agents.judge import Judge

    judge = Judge("mixed-serial-8b", episodes=3, num_requests=20)
    np.testing.assert_allclose(judge.model(InOrder()), judge.rule("fcfs"), rtol=1e-9)
    assert (judge.rule("laps_sd") != judge.rule("fcfs")).any()
    confident = judge.rule("fcfs+confidence")
    assert (confident < judge.rule("fcfs")).all()
    length = policies.make("fcfs+confidence", "mixed-serial-8b").draft_length
    np.testing.assert_allclose(judge.model(InOrder(), draft_length=length), confident, rtol=1e-9)


def test_a_summary_counts_masked_actions() -> None:
    env = small(SEQUENTIAL, batch_size=1)
    _, info = env.reset(seed=0)
    steps, over = 0, False
    while not over:
        wrong = steps % 4 == 0
        mask = info["action_mask"]
        action = int(mask.argmin() if wrong else mask.argmax())
        _, _, terminated, truncated, info = env.step(action)
        assert info["invalid_action"] == wrong
        steps, over = steps + 1, terminated or truncated
    assert info["summary"]["invalid_share"] == pytest.approx(-(-steps // 4) / steps)


def test_training_tells_latency_and_masked_actions() -> None:
    """An agent that knows the mask never errs, one that does not nearly always."""
    from sb3_contrib import MaskablePPO
    from stable_baselines3 import PPO

    from laps_env.agents.progress import EpisodeProgress
    from laps_env.agents.vec_env import ReplayVecEnv

    shares = []
    for algorithm in (MaskablePPO, PPO):
        model: Any = algorithm(
            "MultiInputPolicy", ReplayVecEnv(servers(4)), n_steps=512, batch_size=512, n_epochs=1
        )
        progress = EpisodeProgress()
        model.learn(4 * 2048, callback=progress)
        logged = progress.latest
        assert 0 < logged["episodes/mean_latency_s"] <= logged["episodes/p99_latency_s"]
        shares.append(logged["episodes/invalid_share"])
    assert shares[0] == 0 < shares[1] < 1


def test_observations_that_are_written_over_are_no_rollout() -> None:
    from laps_env.agents.vec_env import ReplayVecEnv

    with pytest.raises(ValueError, match="copy: expected True"):
        ReplayVecEnv(SpecDecodeReplayVectorEnv(2, copy=False, **SMALL))
