"""`TimeDiscountedBuffer`: advantages where steps take different times."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback


class TimeDiscountedBuffer(MaskableDictRolloutBuffer):
    """Generalised advantage estimation with a discount of exp(-dt / horizon) for a step of dt.

    The picks of one round share an instant: a constant discount would count each of them. So would
    lambda, which therefore counts rounds: it is 1 for a step that takes no time.

    Args:
        horizon_s: Seconds, float64 [E] or one number, at which the future counts 1 / e.
    """

    def __init__(self, *args: Any, horizon_s: npt.ArrayLike, **kwargs: Any) -> None:
        self.horizon_s = np.asarray(horizon_s, np.float64)
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Forget the rollout."""
        super().reset()
        self.dt = np.zeros((self.buffer_size, self.n_envs))

    def compute_returns_and_advantage(
        self, last_values: torch.Tensor, dones: npt.NDArray[np.bool_]
    ) -> None:
        """Fill ``advantages`` and ``returns`` from ``rewards``, ``values`` and ``dt``."""
        discount = np.exp(-self.dt / self.horizon_s)
        trace = np.where(self.dt > 0, self.gae_lambda, 1.0)
        value = last_values.cpu().numpy().flatten().astype(np.float64)
        goes_on, advantage = 1.0 - dones, np.zeros(self.n_envs)
        for step in reversed(range(self.buffer_size)):
            own = self.values[step]
            surprise = self.rewards[step] + discount[step] * goes_on * value - own
            advantage = surprise + discount[step] * trace[step] * goes_on * advantage
            self.advantages[step] = advantage
            value, goes_on = own, 1.0 - self.episode_starts[step]
        self.returns = self.advantages + self.values


class Clock(BaseCallback):
    """Tells the buffer how long each step took (`laps_env.agents.vec_env.ReplayVecEnv.dt`)."""

    def _on_step(self) -> bool:
        buffer = self.locals["rollout_buffer"]
        envs: Any = self.training_env.unwrapped
        buffer.dt[buffer.pos] = envs.dt
        return True
