"""`ActionRepeat`: in training, the picks of a round stand for several rounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.sim.loops import ask, take_action
from laps_env.sim.state import BatchedState
from laps_env.utils.checks import check_count
from laps_env.utils.jit import jit

Bools = npt.NDArray[np.bool_]


class ActionRepeat(SpecDecodeReplayVectorEnv):
    """The vector environment, but a round is served again as it was until something happens.

    A request takes some hundred rounds, and one round of another request more or less changes next
    to nothing: whoever decides every round anew learns from noise. A trained rule decides every
    round all the same, when it is deployed.

    Args:
        rounds: Rounds that the picks of one stand for, at most; they end when a request comes or
            goes.
        seconds: Simulated time that they stand for, at most; a round that has begun is ended. Where
            the length of a round is decided too, a discount per step needs steps of equal
            length: by rounds, short drafts would only seem to cost less.
        num_envs, **options: Options of `SpecDecodeReplayVectorEnv`.

    Raises:
        ValueError: A number out of range, or an interface of scores.
    """

    def __init__(
        self, num_envs: int, *, rounds: int, seconds: float = math.inf, **options: Any
    ) -> None:
        super().__init__(num_envs, **options)
        self._rounds, self._seconds = rounds, seconds
        check_count("rounds", rounds)
        if not seconds > 0:
            raise ValueError(f"seconds: expected a number > 0, got {seconds!r}")
        if self.options.interface == "scores":
            raise ValueError("interface: expected 'sequential' or 'drafts', got 'scores'")
        most, decided = self.options.server.batch_size, self.single_action_space.shape or (1,)
        self._picks = np.zeros((most, num_envs, *decided), np.int64)
        self._picked = np.zeros(num_envs, np.int64)

    def _reset_one(self, index: int, options: dict[str, Any] | None = None) -> None:
        super()._reset_one(index, options)
        self._picked[index] = 0

    def _move(self, actions: npt.NDArray[Any], skip: Bools, queue: npt.NDArray[np.float32]) -> None:
        simulation, state = self.simulation, self.simulation.state
        moved = np.flatnonzero(~skip)
        given = actions.reshape(self.num_envs, -1)
        self._picks[self._picked[moved], moved] = given[moved]
        self._picked[moved] += 1
        before = state.servers[["finished", "active", "truncated"]].copy()
        super()._move(actions, skip, queue)
        ran = state.ran_round & ~skip
        limits, scale = (self._rounds, self._seconds), self.options.reward_scale
        _repeat(simulation.constants, state, before, self._picks, self._picked, ran, limits, scale)
        self._picked[ran] = 0
        queue[ran] = state.queue[ran]


@jit
def _repeat(
    c: Any,
    state: BatchedState,
    before: npt.NDArray[Any],
    picks: npt.NDArray[np.int64],
    picked: npt.NDArray[np.int64],
    ran: Bools,
    limits: tuple[int, float],
    scale: float,
) -> None:
    """Repeat the round that each of these servers ``ran``, until something happens.

    ``limits`` are the most rounds and seconds. Rewards and durations add up in the state;
    ``before`` says how many requests each server had finished and had in its table before the
    round, and whether its episode was cut off.
    """
    for i in range(picked.size):
        if not ran[i]:
            continue
        server, first = state.servers[i], before[i]
        reward, dt, invalid = state.reward[i], state.dt[i], state.invalid[i]
        more = limits[0] - 1
        while (
            more > 0
            and dt < limits[1]
            and server.finished == first.finished
            and server.active == first.active
            and server.truncated == first.truncated
        ):
            more -= 1
            for k in range(picked[i]):
                if picks.shape[2] == 2:
                    ask(c, state, i, picks[k, i, 0], picks[k, i, 1])
                take_action(c, state, i, picks[k, i, 0], scale)
                reward += state.reward[i]
                dt += state.dt[i]
                # Contexts grow: where one no longer fits, the round has begun without it.
                if state.invalid[i] or (state.ran_round[i] and k + 1 < picked[i]):
                    more = 0
                    break
        state.reward[i], state.dt[i], state.invalid[i] = reward, dt, invalid
        state.ran_round[i] = True
