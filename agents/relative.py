"""`RelativeReward`: how much better than LAPS-SD on the same workload.

What arrives, and how much work it is, moves the return far more than the order of service does, and
it moves every policy's return alike. So each workload is also served by a reference policy, and the
reward of a step becomes

    (requests in the reference's system - requests in ours), integrated over the step / constant,

whose sum over an episode is the reference's total latency minus ours. What is subtracted does not
depend on our actions, so the best policy stays the best (Mao et al., "Variance Reduction for
Reinforcement Learning in Input-Driven Environments", ICLR 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnvWrapper

from laps_env.agents.vec_env import ReplayVecEnv
from laps_env.evaluation.episodes import serve
from laps_env.policies import Policy
from laps_env.utils.jit import jit
from laps_env.workloads import Workload
from laps_env.workloads.scenarios import Scenario


class RelativeReward(VecEnvWrapper):
    """Rewards relative to a reference policy.

    Args:
        venv: The servers.
        make_reference: Maker of the policy that a scenario's workloads are also served by.
    """

    def __init__(self, venv: ReplayVecEnv, make_reference: Callable[[Scenario], Policy]) -> None:
        super().__init__(venv)
        self._places = venv.places
        self._policies = venv.per_env(lambda envs: make_reference(envs.options.get_scenario()))
        self._scale = np.array(venv.per_env(lambda envs: envs.options.reward_scale))
        most = max(envs.options.num_requests for envs in venv.groups)
        self._times = np.zeros((2, self.num_envs, most), np.int64)
        self._before = np.zeros(self.num_envs)

    def reset(self) -> Any:
        """Start all environments."""
        observation = self.venv.reset()
        for index in range(self.num_envs):
            self._serve(index)
        return observation

    def step_wait(self) -> Any:
        """Take the step; an environment that ends gets what is left of the reference's episode."""
        observation, rewards, dones, infos = self.venv.step_wait()
        integral = np.empty(self.num_envs)
        now = [envs.simulation.state.servers["now"][i] for envs, i in self._places]
        _integrate(self._times, np.where(dones, np.iinfo(np.int64).max, now), integral)
        relative = rewards + (integral - self._before) / self._scale
        self._before = integral
        for index in np.flatnonzero(dones).tolist():
            self._serve(index)
        return observation, relative.astype(np.float32), dones, infos

    def _serve(self, index: int) -> None:
        """Serve an environment's workload with the reference."""
        envs, i = self._places[index]
        workload: Workload = envs.workload(i)
        options = envs.options
        requests = serve(
            self._policies[index],
            workload,
            options.get_scenario(),
            split=options.split,
            slots=options.slots,
        ).requests()
        self._times[:, index] = 0
        self._times[0, index, : requests.size] = requests["arrival_ns"]
        self._times[1, index, : requests.size] = requests["completion_ns"]
        self._before[index] = 0.0


@jit
def _integrate(
    times: npt.NDArray[np.int64], until: npt.NDArray[np.int64], integral: npt.NDArray[np.float64]
) -> None:
    """Requests in the system, integrated from 0 ``until`` a moment, in request-seconds.

    ``times`` [2, E, R]: arrivals and completions.
    """
    for index in range(times.shape[1]):
        total = 0
        for k in range(times.shape[2]):
            arrival, completion = times[0, index, k], times[1, index, k]
            if arrival < until[index]:
                total += min(completion, until[index]) - arrival
        integral[index] = total * 1e-9
