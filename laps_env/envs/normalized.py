"""Observations in numbers near 1, for networks: fixed scales, nothing that drifts with training.

Rules read physical units (`laps_env.sim.observation`), in which a wait is anything from a
millisecond to a day; a network is blind to most of that. Here each column is scaled by its unit:

| unit | scaled |
|---|---|
| 0/1 | as it is |
| ratio | at most 4 |
| s | sign(x) log(1 + abs(x) / 1 ms) / 10: 1 ms is 0.07, 1 s is 0.69, an hour is 1.51 |
| tokens, rounds, requests, count | log(1 + x) / 8: 1 is 0.09, 100 is 0.58, 3,000 is 1.00 |
| index | x / 8 |

Zero stays zero, so an empty slot stays a row of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from laps_env.sim.observation import OCCUPIED, QUEUE_COLUMNS, SERVER_COLUMNS, Column
from laps_env.utils.jit import inlined, jit

Observation = dict[str, npt.NDArray[np.float32]]

PLAIN, RATIO, TIME, AMOUNT, INDEX = range(5)
#: How a column of each unit is scaled.
SCALES = {
    "0/1": PLAIN,
    "ratio": RATIO,
    "s": TIME,
    "tokens": AMOUNT,
    "rounds": AMOUNT,
    "requests": AMOUNT,
    "count": AMOUNT,
    "index": INDEX,
}
#: Largest ratio that is told from larger ones.
MOST_RATIO = 4.0


def _kinds(columns: Sequence[Column]) -> npt.NDArray[np.int64]:
    return np.array([SCALES[column.unit] for column in columns])


_QUEUE, _SERVER = _kinds(QUEUE_COLUMNS), _kinds(SERVER_COLUMNS)


@inlined
def _scaled(kind: int, value: float) -> float:
    if kind == PLAIN:
        return value
    if kind == RATIO:
        return min(value, MOST_RATIO)
    if kind == TIME:
        return math.copysign(math.log1p(abs(value) * 1000.0) / 10.0, value)
    if kind == AMOUNT:
        return math.log1p(value) / 8.0
    return value / 8.0


@jit
def _scale_rows(
    rows: npt.NDArray[np.float32], kinds: npt.NDArray[np.int64], first: int, out: Any
) -> None:
    """Scale the rows [M, F] whose column ``first`` is not 0 (all of them if it is negative)."""
    for i in range(rows.shape[0]):
        if first >= 0 and rows[i, first] == 0:
            continue
        for j in range(rows.shape[1]):
            out[i, j] = _scaled(kinds[j], rows[i, j])


def normalized(observation: Observation) -> Observation:
    """The observation of one environment or of a vector of them, scaled; fresh arrays.

    Args:
        observation: Arrays ``queue`` [(E,) N, 24] and ``server`` [(E,) 8] in physical units.
    """
    queue, server = (np.ascontiguousarray(observation[name]) for name in ("queue", "server"))
    scaled = {"queue": np.zeros_like(queue), "server": np.zeros_like(server)}
    for given, kinds, first, name in (
        (queue, _QUEUE, OCCUPIED, "queue"),
        (server, _SERVER, -1, "server"),
    ):
        columns = given.shape[-1]
        _scale_rows(given.reshape(-1, columns), kinds, first, scaled[name].reshape(-1, columns))
    return scaled


def normalized_space(space: gym.spaces.Dict) -> gym.spaces.Dict:
    """Space of `normalized` observations of one environment."""
    bounds: dict[str, gym.Space[Any]] = {}
    for name, kinds in (("queue", _QUEUE), ("server", _SERVER)):
        box: Any = space[name]
        ends = [np.zeros_like(box.low), np.zeros_like(box.high)]
        for end, out in zip((box.low, box.high), ends, strict=True):
            columns = end.shape[-1]
            _scale_rows(end.reshape(-1, columns), kinds, -1, out.reshape(-1, columns))
        bounds[name] = gym.spaces.Box(*ends, dtype=np.float32)
    return gym.spaces.Dict(bounds)


class NormalizedObservation(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """An environment of this package whose observations are `normalized`.

    Rules cannot play it: they read physical units.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        space: Any = env.observation_space
        self.observation_space = normalized_space(space)

    def observation(self, observation: Observation) -> Observation:
        """Scale it."""
        return normalized(observation)

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Valid actions now, bool [slots + 1] (the name that sb3-contrib looks for)."""
        inner: Any = self.env.unwrapped
        mask: npt.NDArray[np.bool_] = inner.action_masks()
        return mask


class NormalizedVectorObservation(VectorWrapper[Any, Any, Any, Any, Any]):
    """A vector environment of this package whose observations are `normalized`, also the last ones.

    Rules cannot play it: they read physical units.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        single: Any = env.single_observation_space
        self.single_observation_space = normalized_space(single)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def __getattr__(self, name: str) -> Any:
        """What else the environment has: ``action_masks``, ``summary``, ``workload``, ..."""
        if name.startswith("_"):
            raise AttributeError(f"accessing private attribute {name!r} is prohibited")
        return getattr(self.env, name)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset, and scale what is seen."""
        observation, info = self.env.reset(seed=seed, options=options)
        return normalized(observation), info

    def step(self, actions: Any) -> tuple[Observation, Any, Any, Any, dict[str, Any]]:
        """Step, and scale what is seen, ``info["final_obs"]`` as well."""
        observation, reward, terminated, truncated, info = self.env.step(actions)
        if "final_obs" in info:
            last = info["final_obs"]
            for index in np.flatnonzero(info["_final_obs"]).tolist():
                last[index] = normalized(last[index])
        return normalized(observation), reward, terminated, truncated, info
