"""`ReplayVecEnv`: native vector environments as stable-baselines3 wants them.

stable-baselines3 has no adapter for Gymnasium's vector environments; wrapping single ones in its
`DummyVecEnv` gives the same transitions (tests/test_vec_env.py) and costs their loop in Python.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices

from laps_env.envs.normalized import NormalizedVectorObservation
from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.sim.observation import CATEGORY, OCCUPIED

Observation = dict[str, npt.NDArray[np.float32]]
Infos = list[dict[str, Any]]
#: A native vector environment, in physical units or scaled for networks.
Group = SpecDecodeReplayVectorEnv | NormalizedVectorObservation
Made = TypeVar("Made")

#: Methods of the vector environment that give something for each of its servers.
FOR_EACH = ("action_masks", "render")


class ReplayVecEnv(VecEnv):
    """Servers of one or several vector environments, one after the other, with fresh arrays.

    An info is an empty dict while the episode goes on. At its end it has ``terminal_observation``,
    ``TimeLimit.truncated``, ``episode`` (``r`` return, ``l`` steps, ``t`` seconds since the start,
    as `Monitor` has them) and ``summary`` (`laps_env.sim.metrics.summarize`).

    Args:
        groups: Vector environments with ``autoreset_mode="SameStep"`` and one number of slots, each
            as it is or in a `NormalizedVectorObservation`; this adapter alone resets them. Several
            mix scenarios or loads in one training run.
        first_category: Number added to the category of each group's requests, 0 by default; tells
            the categories of different scenarios apart.

    Attributes:
        dt: Seconds that the last step took, float64 [E].

    Raises:
        ValueError: Another autoreset mode, or groups of different shapes.
    """

    def __init__(
        self,
        *groups: Group,
        first_category: Sequence[int] | None = None,
    ) -> None:
        for envs in groups:
            if envs.autoreset_mode != AutoresetMode.SAME_STEP:
                raise ValueError(
                    f"autoreset_mode: expected {AutoresetMode.SAME_STEP}, got {envs.autoreset_mode}"
                )
            if not envs.copies:
                raise ValueError("copy: expected True: stable-baselines3 keeps observations")
            if envs.single_action_space != groups[0].single_action_space:
                raise ValueError(
                    f"groups: expected the same action space, got {groups[0].single_action_space} "
                    f"and {envs.single_action_space}"
                )
        self.groups: tuple[Any, ...] = groups  # a wrapper has what is wrapped
        #: The vector environment of each index, and which of its servers it is.
        self.places = [(envs, i) for envs in groups for i in range(envs.num_envs)]
        sizes = [envs.num_envs for envs in groups]
        ends = np.cumsum(sizes).tolist()
        #: Indices of each group.
        self.members = [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self._category = np.repeat(first_category or [0] * len(groups), sizes).astype(np.float32)
        self._actions: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._lengths = np.zeros(sum(sizes), np.int64)
        self._began = time.perf_counter()
        self.dt = np.zeros(sum(sizes))
        first = groups[0]
        super().__init__(sum(sizes), first.single_observation_space, first.single_action_space)

    def reset(self) -> Observation:
        """Start all environments, with the seeds and options given before, which count once."""
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError(
                f"options: expected the same for all environments, got {self._options}"
            )
        parts = []
        for envs, members in zip(self.groups, self.members, strict=True):
            observation, _ = envs.reset(
                seed=[self._seeds[index] for index in members], options=options
            )
            parts.append(observation)
        self._lengths[:] = 0
        self._reset_seeds()
        self._reset_options()
        return self._joined(parts)

    def step_async(self, actions: npt.NDArray[np.int64]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[Observation, npt.NDArray[np.float32], npt.NDArray[np.bool_], Infos]:
        """Take the step."""
        self._lengths += 1
        infos: Infos = [{} for _ in range(self.num_envs)]
        observations, rewards, dones = [], [], []
        for envs, members in zip(self.groups, self.members, strict=True):
            own = self._actions[members.start : members.stop]
            observation, reward, terminated, truncated, info = envs.step(own)
            self.dt[members.start : members.stop] = info["dt"]
            ended = terminated | truncated
            for i in np.flatnonzero(ended).tolist():
                infos[members[i]] = self._last_info(
                    members[i], i, info, truncated=bool(truncated[i])
                )
            observations.append(observation)
            rewards.append(reward)
            dones.append(ended)
        done = np.concatenate(dones)
        self._lengths[done] = 0
        return self._joined(observations), np.concatenate(rewards, dtype=np.float32), done, infos

    def _joined(self, parts: list[Observation]) -> Observation:
        """One observation of all environments; alone, the group's own arrays, which are fresh."""
        if len(parts) == 1:
            return parts[0]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        queue = joined["queue"]
        queue[:, :, CATEGORY] += self._category[:, None] * queue[:, :, OCCUPIED]
        return joined

    def with_own_categories(self, queue: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A copy of ``queue`` [E, N, F] in which each group counts its categories from 0."""
        own = queue.copy()
        own[:, :, CATEGORY] -= self._category[:, None] * own[:, :, OCCUPIED]
        return own

    def _last_info(
        self, index: int, i: int, info: dict[str, Any], *, truncated: bool
    ) -> dict[str, Any]:
        """Of server i of a group, which has this index."""
        last, columns = info["final_obs"][i], info["final_info"]["summary"]
        last["queue"][:, CATEGORY] += self._category[index] * last["queue"][:, OCCUPIED]
        having = [name for name in columns if f"_{name}" in columns and columns[f"_{name}"][i]]
        summary = {name: columns[name][i] for name in having}
        return {
            "TimeLimit.truncated": truncated,
            "terminal_observation": last,
            "episode": {
                "r": summary["return"],
                "l": int(self._lengths[index]),
                "t": time.perf_counter() - self._began,
            },
            "summary": summary,
        }

    def get_images(self) -> list[npt.NDArray[np.uint8]]:
        """A picture of each server, uint8 [640, 960, 3], for ``render_mode="rgb_array"``."""
        return self.env_method("render")

    def close(self) -> None:
        """Nothing is held."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the vector environment behind each index."""
        return [getattr(self.places[index][0], attr_name) for index in self._get_indices(indices)]

    def per_env(self, make: Callable[[Any], Made]) -> list[Made]:
        """What is made of each vector environment, once, for each of its servers."""
        made = [make(envs) for envs in self.groups]
        return [
            own for own, envs in zip(made, self.groups, strict=True) for _ in range(envs.num_envs)
        ]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refused: servers share one object.

        Raises:
            AttributeError: Raised always.
        """
        raise AttributeError(
            f"{attr_name}: expected nothing to be set on servers of one environment"
        )

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """A method in `FOR_EACH`, or one that takes the index first (``summary``, ``workload``).

        Raises:
            AttributeError: The vector environment has no such method.
        """
        wanted = self._get_indices(indices)
        if method_name in FOR_EACH:
            found = [own for envs in self.groups for own in getattr(envs, method_name)()]
            return [found[index] for index in wanted]
        places = [self.places[index] for index in wanted]
        return [getattr(envs, method_name)(i, *args, **kwargs) for envs, i in places]

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        """None is wrapped, but ``episode`` is reported as by a monitor."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
