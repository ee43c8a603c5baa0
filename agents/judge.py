"""`Judge`: models of stable-baselines3 and rules, on the same workloads that no training sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from laps_env import policies
from laps_env.envs.normalized import NormalizedVectorObservation
from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.evaluation.episodes import serve
from laps_env.workloads import Workload
from laps_env.workloads.scenarios import get_scenario


class Judge:
    """Mean latency of whoever schedules, workload by workload.

    Args:
        scenario: Name of a scenario.
        load: Arrival rate as a fraction of the saturation throughput.
        episodes: Number of workloads, K.
        num_requests: Requests of each.
        split: Split that they are drawn from.
        seed: Seed of the first; the next have the next.
    """

    def __init__(
        self,
        scenario: str,
        *,
        load: float = 0.9,
        episodes: int = 16,
        num_requests: int = 300,
        split: str = "test",
        seed: int = 0,
    ) -> None:
        self.scenario, self.split, self._seed = get_scenario(scenario), split, seed
        self._made = {"load": load, "num_requests": num_requests, "split": split}
        self._episodes = episodes

    def _servers(self, **options: Any) -> SpecDecodeReplayVectorEnv:
        return SpecDecodeReplayVectorEnv(
            self._episodes,
            scenario=self.scenario,
            autoreset_mode="Disabled",
            **{**self._made, **options},
        )

    def rule(self, name: str) -> npt.NDArray[np.float64]:
        """Mean latencies under a rule, in seconds, [K]."""
        policy = policies.make(name, self.scenario)
        own = {} if policy.draft_length is None else {"draft_length": policy.draft_length}
        servers = self._servers(**own)
        servers.reset(seed=self._seed)
        workloads = [servers.workload(i) for i in range(self._episodes)]
        return np.array([self._latency(policy, workload) for workload in workloads])

    def _latency(self, policy: policies.Policy, workload: Workload) -> float:
        requests = serve(policy, workload, self.scenario, split=self.split).requests()
        return float((requests["completion_ns"] - requests["arrival_ns"]).mean()) * 1e-9

    def model(
        self,
        model: Any,
        *,
        normalized: bool = True,
        masked: bool = True,
        **options: Any,
    ) -> npt.NDArray[np.float64]:
        """Mean latencies under a model's most probable actions, in seconds, [K].

        Args:
            model: Model with the ``predict`` of stable-baselines3.
            normalized: Whether it was trained on `laps_env.envs.normalized` observations.
            masked: Whether its ``predict`` takes ``action_masks``.
            **options: Options of `SpecDecodeReplayVectorEnv` that it was trained with, other than
                the scenario and its traffic: ``slots``, ``interface``, ``draft_length``.
        """
        servers = self._servers(**options)
        envs: VectorEnv = NormalizedVectorObservation(servers) if normalized else servers
        observation, _ = envs.reset(seed=self._seed)
        found = np.full(self._episodes, np.nan)
        state, ended = None, np.ones(self._episodes, np.bool_)
        while np.isnan(found).any():
            masks = {"action_masks": servers.action_masks()} if masked else {}
            actions, state = model.predict(
                observation, state, episode_start=ended, deterministic=True, **masks
            )
            observation, _, terminated, truncated, _ = envs.step(actions)
            ended = terminated | truncated
            for index in np.flatnonzero(ended & np.isnan(found)).tolist():
                found[index] = servers.summary(index)["mean_latency_s"]
            if ended.any():  # those that are through play on, unseen
                observation, _ = envs.reset(options={"reset_mask": ended})
        return found
