"""`Episodes`: which episode each environment is in, and the workload of its next."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.envs.options import EnvOptions
from laps_env.sim.workload import Workload
from laps_env.utils.checks import check_count

RESET_OPTIONS = ("workload", "workload_seed", "reset_mask")

Seeds = int | list[int | None] | None


def checked_options(options: Any) -> dict[str, Any]:
    """Reset options that are known.

    Raises:
        ValueError: They are no dict, or one is unknown.
    """
    if not isinstance(options, dict | None):
        raise ValueError(f"reset options: expected a dict, got {options!r}")
    unknown = [name for name in options or {} if name not in RESET_OPTIONS]
    if unknown:
        raise ValueError(f"reset options: expected only {', '.join(RESET_OPTIONS)}; got {unknown}")
    return options or {}


def checked_seeds(seed: Seeds, num_envs: int) -> list[int | None]:
    """Seed of each environment: those given, or consecutive ones from a base.

    Raises:
        ValueError: One is no integer >= 0, or there are too many or too few.
    """
    seeds: list[int | None]
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, list | tuple | np.ndarray):
        seeds = list(seed)
    else:
        check_count("seed", seed, least=0)
        seeds = [int(seed) + i for i in range(num_envs)]
    if len(seeds) != num_envs:
        raise ValueError(f"seed: expected {num_envs} seeds, got {len(seeds)}")
    for given in seeds:
        check_count("seed", given, least=0, optional=True)
    return seeds


class Episodes:
    """Seeds of the environments, and how many episodes each has begun since it got its own.

    Args:
        options: What their workloads are drawn from.
        num_envs: Number of environments, E.
    """

    def __init__(self, options: EnvOptions, num_envs: int) -> None:
        self._options = options
        self._seeds = np.full(num_envs, -1, np.int64)
        self._begun = np.zeros(num_envs, np.int64)

    @property
    def is_seeded(self) -> bool:
        """Whether every environment has got its seed."""
        return bool((self._seeds >= 0).all())

    def seed(self, chosen: list[int], seeds: list[int | None], rng: np.random.Generator) -> None:
        """Give each its seed, or any where it never had one; its episodes count from 0 then."""
        for index in chosen:
            given = seeds[index]
            if given is None and self._seeds[index] < 0:
                given = int(rng.integers(2**31))
            if given is not None:
                self._seeds[index] = given
                self._begun[index] = 0

    def workload(self, index: int, reset_options: dict[str, Any]) -> Workload:
        """Workload of the next episode of one, if reset options give no other.

        Raises:
            ValueError: An option is of the wrong kind.
        """
        workload = reset_options.get("workload")
        if workload is not None:
            if not isinstance(workload, Workload):
                raise ValueError(f"workload: expected a Workload, got {type(workload).__name__}")
            return workload
        seed = reset_options.get("workload_seed")
        if seed is None:
            return self._options.workload(int(self._seeds[index]), int(self._begun[index]))
        check_count("workload_seed", seed, least=0)
        return self._options.workload(int(seed), 0)

    def begin(self, index: int) -> None:
        """An environment has begun its next episode."""
        self._begun[index] += 1


def to_reset(mask: npt.ArrayLike | None, num_envs: int) -> npt.NDArray[np.bool_]:
    """Which environments a reset is for.

    Raises:
        ValueError: The mask is not bool [num_envs] with a True.
    """
    if mask is None:
        return np.ones(num_envs, np.bool_)
    mask = np.asarray(mask)
    if mask.shape != (num_envs,) or mask.dtype != np.bool_ or not mask.any():
        raise ValueError(
            f"reset_mask: expected bool [{num_envs}] with a True, got {mask.dtype} {mask.shape}"
        )
    return mask.copy()
