"""`HeldRounds`: in training, the picks of a round stand for several rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.checks import check_count
from laps_env.vector_env import SpecDecodeReplayVectorEnv

Bools = npt.NDArray[np.bool_]


class HeldRounds(SpecDecodeReplayVectorEnv):
    """The vector environment, but a round is served again as it was until something happens.

    A request takes some hundred rounds, and one round of another request more or less changes next
    to nothing: whoever decides every round anew learns from noise. A trained rule decides every
    round all the same, when it is deployed.

    Args:
        rounds: that the picks of one stand at most; they end when a request comes or goes.
        num_envs, **options: as `SpecDecodeReplayVectorEnv`.

    Raises:
        ValueError: a number out of range, or an interface other than picks.
    """

    def __init__(self, num_envs: int, *, rounds: int, **options: Any) -> None:
        super().__init__(num_envs, **options)
        self._rounds = rounds
        check_count("rounds", rounds)
        if self.options.interface != "pick":
            raise ValueError(f"interface: expected 'pick', got {self.options.interface!r}")
        most = self.options.server.batch_size
        self._picks = np.zeros((most, num_envs), np.int64)
        self._picked = np.zeros(num_envs, np.int64)

    def _reset_row(self, row: int, options: dict[str, Any] | None = None) -> None:
        super()._reset_row(row, options)
        self._picked[row] = 0

    def _move(self, actions: npt.NDArray[Any], skip: Bools) -> None:
        fleet = self.simulation.fleet
        moved = np.flatnonzero(~skip)
        self._picks[self._picked[moved], moved] = actions[moved]
        self._picked[moved] += 1
        before = self._population()
        super()._move(actions, skip)
        ran = fleet.ran_round & ~skip
        reward, dt, invalid = fleet.reward.copy(), fleet.dt.copy(), fleet.invalid.copy()
        held = ran.copy()
        for _ in range(self._rounds - 1):
            held &= (self._population() == before).all(axis=0)
            if not held.any():
                break
            for k in range(int(self._picked[held].max())):
                taking = held & (k < self._picked)
                super()._move(self._picks[k], ~taking)
                reward[taking] += fleet.reward[taking]
                dt[taking] += fleet.dt[taking]
                # Contexts grow: where one no longer fits, the round has begun without it.
                early = fleet.ran_round & (k + 1 < self._picked)
                held &= ~(taking & (fleet.invalid | early))
        fleet.reward[:], fleet.dt[:] = reward, dt
        fleet.ran_round[:], fleet.invalid[:] = ran, invalid
        self._picked[ran] = 0

    def _population(self) -> npt.NDArray[np.int64]:
        """Requests finished, requests in the table, whether the episode is cut off, [3, E]."""
        servers = self.simulation.fleet.servers
        counts = [servers[name] for name in ("finished", "active", "truncated")]
        return np.stack(counts).astype(np.int64)
