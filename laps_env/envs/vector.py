"""`SpecDecodeReplayVectorEnv`: many replay servers in one compiled step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from laps_env.envs.gymnasium_api import as_autoreset_mode
from laps_env.envs.infos import Info, add_summaries, masked, unmasked
from laps_env.envs.options import EnvOptions
from laps_env.envs.picture import Picture
from laps_env.envs.rendering import View, as_text, check_render_mode, view_of
from laps_env.envs.spaces import (
    action_space,
    check_actions,
    check_allowed,
    observation_space,
)
from laps_env.envs.threads import Threads
from laps_env.sim.loops import step_scores, step_sequential
from laps_env.sim.metrics import summarize, time_alone_ns
from laps_env.sim.objectives import OBJECTIVES, charge
from laps_env.sim.server_model import DraftLength
from laps_env.sim.simulation import UNLIMITED, Simulation, limit_ns
from laps_env.sim.workload import Workload
from laps_env.utils.checks import check_count
from laps_env.utils.splits import Split
from laps_env.workloads.predictors import PredictorError
from laps_env.workloads.scenarios import DEFAULT_SCENARIO, Scenario

Observation = dict[str, npt.NDArray[np.float32]]

Bools = npt.NDArray[np.bool_]
Step = tuple[Observation, npt.NDArray[np.float64], Bools, Bools, Info]

RESET_OPTIONS = ("workload", "workload_seed", "reset_mask")


class SpecDecodeReplayVectorEnv(VectorEnv):
    """E independent copies of `laps_env.envs.replay.SpecDecodeReplay`, stepped together.

    Environment i reset with seed s equals the single environment reset with seed s + i, in every
    autoreset mode; so base seeds of runs should lie far apart (2**20, say).

    Args:
        num_envs: Number of environments, E.
        autoreset_mode: ``NEXT_STEP`` (default), ``SAME_STEP`` (with Gymnasium 1.4 or newer) or
            ``DISABLED``; with the last, ``reset(options={"reset_mask": bool [E]})`` resets those
            that have ended.
        max_episode_steps: Steps after which an episode is truncated; never by default.
        num_threads: Threads that step the servers; nothing else depends on it.
        copy: Whether observations are fresh arrays (default). Else they are the environment's own,
            read-only by agreement and good until the next step or reset, which writes over them.
        render_mode: None, ``"ansi"`` or ``"rgb_array"``.
        scenario, load, num_requests, slots, batch_size, draft_length, pool_tokens,
            predictor_error, time_limit_s, queue_limit, reward_scale, objective, category_weights,
            split, interface, on_invalid: Arguments of `laps_env.envs.replay.SpecDecodeReplay`.

    Raises:
        ValueError: An argument is out of range; the message names it, what was expected and what
            came.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium's own declaration)
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        scenario: str | Scenario = DEFAULT_SCENARIO,
        load: float | str = 0.9,
        num_requests: int = 200,
        slots: int = 64,
        batch_size: int | None = None,
        draft_length: DraftLength | None = None,
        pool_tokens: int | None = None,
        predictor_error: PredictorError = None,
        time_limit_s: float | None = None,
        queue_limit: int | None = None,
        reward_scale: float = 1.0,
        objective: str = "mean_latency",
        category_weights: Mapping[str, float] | None = None,
        split: str = Split.TRAIN,
        interface: str = "sequential",
        on_invalid: str = "serve_first",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        num_threads: int = 1,
        copy: bool = True,
        render_mode: str | None = None,
    ) -> None:
        check_count("num_envs", num_envs)
        check_count("num_threads", num_threads)
        check_count("max_episode_steps", max_episode_steps, optional=True)
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.options = EnvOptions(
            scenario=scenario,
            load=load,
            num_requests=num_requests,
            slots=slots,
            batch_size=batch_size,
            draft_length=draft_length,
            pool_tokens=pool_tokens,
            predictor_error=predictor_error,
            time_limit_s=time_limit_s,
            queue_limit=queue_limit,
            reward_scale=reward_scale,
            objective=objective,
            category_weights=category_weights,
            split=split,
            interface=interface,
            on_invalid=on_invalid,
        )
        self.num_envs = num_envs
        self._copy = copy
        self._threads = Threads(num_threads, num_envs)
        self.render_mode = render_mode
        self._pictures: list[Picture] = []
        self.autoreset_mode = as_autoreset_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = observation_space(slots)
        self.single_action_space = action_space(interface, slots)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.simulation = Simulation(
            self.options.server,
            num_envs=num_envs,
            slots=slots,
            saturation_rps=self.options.get_scenario().saturation(split),
            time_limit_ns=limit_ns(time_limit_s),
            queue_limit=queue_limit or UNLIMITED,
        )
        self.max_episode_steps = max_episode_steps or UNLIMITED
        self._started = False
        self._seeds = np.full(num_envs, -1, np.int64)
        self._episodes = np.zeros(num_envs, np.int64)
        self._steps = np.zeros(num_envs, np.int64)
        self._returns = np.zeros(num_envs)
        self._ended = np.ones(num_envs, np.bool_)

    # -- reset ------------------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Info]:
        """Start an episode in every environment, or in those of ``options["reset_mask"]``.

        Args:
            seed: Seed of environment 0; environment i gets seed + i. A list gives each its own.
                With None an environment goes on with its next episode (at first from an arbitrary
                seed).
            options: ``workload`` (a `Workload` for all that are reset), ``workload_seed`` (int: the
                workload of that seed, for this episode alone), ``reset_mask`` (bool [E]).

        Raises:
            ValueError: An option is unknown, or of the wrong kind.
        """
        if not isinstance(options, dict | None):
            raise ValueError(f"reset options: expected a dict, got {options!r}")
        options = options or {}
        unknown = [name for name in options if name not in RESET_OPTIONS]
        if unknown:
            raise ValueError(
                f"reset options: expected only {', '.join(RESET_OPTIONS)}; got {unknown}"
            )
        chosen = self._to_reset(options.get("reset_mask"))
        self._seed(chosen, seed)
        for index in chosen.tolist():
            self._reset_one(index, options)
        self._started = True
        started = np.isin(np.arange(self.num_envs), chosen)
        return self._observe(), masked(self._info(), started)

    def _to_reset(self, mask: Any) -> npt.NDArray[np.intp]:
        if mask is None:
            return np.arange(self.num_envs)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(
                f"reset_mask: expected bool [{self.num_envs}] with a True, "
                f"got {mask.dtype} {mask.shape}"
            )
        if not (self._started or mask.all()):
            raise gym.error.ResetNeeded("reset_mask: reset all environments first")
        return np.flatnonzero(mask)

    def _seed(self, chosen: npt.NDArray[np.intp], seed: int | list[int | None] | None) -> None:
        """Give each its seed; episodes of a newly seeded environment count from 0."""
        seeds: list[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        elif isinstance(seed, list | tuple | np.ndarray):
            seeds = list(seed)
        else:
            check_count("seed", seed, least=0)
            super().reset(seed=int(seed))
            seeds = [int(seed) + i for i in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed: expected {self.num_envs} seeds, got {len(seeds)}")
        for given in seeds:
            check_count("seed", given, least=0, optional=True)
        for index in chosen.tolist():
            given = seeds[index]
            if given is None and self._seeds[index] < 0:
                given = int(self.np_random.integers(2**31))
            if given is not None:
                self._seeds[index] = given
                self._episodes[index] = -1

    def _reset_one(self, index: int, options: dict[str, Any] | None = None) -> None:
        """Start the next episode of one; a workload that is refused changes nothing."""
        episode = int(self._episodes[index]) + 1
        workload = self._make_workload(index, episode, options or {})
        weights = self.options.request_weights(workload)
        self.simulation.start(index, workload)
        self.simulation.requests(index)["weight"] = weights
        self._episodes[index] = episode
        self._steps[index] = 0
        self._returns[index] = 0.0
        self._ended[index] = False
        state = self.simulation.state
        state.dt[index] = 0.0
        state.ran_round[index] = state.invalid[index] = False

    def _make_workload(self, index: int, episode: int, options: dict[str, Any]) -> Workload:
        workload = options.get("workload")
        if workload is not None:
            if not isinstance(workload, Workload):
                raise ValueError(f"workload: expected a Workload, got {type(workload).__name__}")
            return workload
        seed = options.get("workload_seed")
        if seed is None:
            seed = int(self._seeds[index])
        else:
            check_count("workload_seed", seed, least=0)
            seed, episode = int(seed), 0
        return self.options.workload(seed, episode)

    # -- step -------------------------------------------------------------------------------------

    def step(self, actions: npt.NDArray[Any]) -> Step:
        """Take one action per environment.

        Raises:
            ValueError: Actions are of another shape or out of range (nothing has moved then).
            gymnasium.error.ResetNeeded: Called before `reset`, or, with ``DISABLED``, after an
                episode's end.
        """
        return self.take(check_actions("actions", actions, self.action_space, self.options.slots))

    def take(self, actions: npt.NDArray[Any]) -> Step:
        """Take actions that `laps_env.envs.spaces.check_actions` has checked (see `step`)."""
        skip = self._ended.copy()
        if skip.any() and not (self._started and self.autoreset_mode == AutoresetMode.NEXT_STEP):
            ended = np.flatnonzero(skip).tolist()
            raise gym.error.ResetNeeded(f"step: expected reset first in environments {ended}")
        for index in np.flatnonzero(skip).tolist():
            self._reset_one(index)
        if self.options.on_invalid == "error" and self.options.interface == "sequential":
            check_allowed(actions, self.simulation.state.mask, skip)
        self._move(actions, skip)
        self._charge(skip)
        servers = self.simulation.state.servers
        reward = np.where(skip, 0.0, self.simulation.state.reward)
        self._steps += ~skip
        self._returns += reward
        terminated = servers["finished"] == servers["requests"]
        truncated = (servers["truncated"] == 1) | (self._steps >= self.max_episode_steps)
        truncated &= ~terminated
        self._ended = terminated | truncated
        if not self._ended.any():
            return self._observe(), reward, terminated, truncated, self._info()
        info = self._info()
        summaries = {index: self.summary(index) for index in np.flatnonzero(self._ended).tolist()}
        add_summaries(info, summaries, self._ended)
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            info = self._reset_same_step(info)
        return self._observe(), reward, terminated, truncated, info

    def _move(self, actions: npt.NDArray[Any], skip: npt.NDArray[np.bool_]) -> None:
        """All that are not skipped take their actions."""
        constants, scale = self.simulation.constants, self.options.reward_scale
        sequential = self.options.interface == "sequential"
        step, given = (step_sequential, actions) if sequential else (step_scores, -actions)
        self._threads.run(
            self.simulation.state,
            lambda part, own: step(constants, part, given[own], skip[own], scale),
        )

    def _charge(self, skip: npt.NDArray[np.bool_]) -> None:
        """The rewards under another objective than the default, which the round itself knows."""
        state, scale = self.simulation.state, self.options.reward_scale
        if not self.options.is_default_objective:
            objective = list(OBJECTIVES).index(self.options.objective)
            charge(state, objective, skip, scale)
        if self.options.on_invalid == "penalty":
            state.reward[state.invalid & ~skip] -= 1 / scale

    def _reset_same_step(self, info: Info) -> Info:
        """Those that have ended start anew; their last observation and info go to ``final_*``."""
        ended = self._ended.copy()
        last = self._observe()
        final_obs = np.full(self.num_envs, None, object)
        for index in np.flatnonzero(ended).tolist():
            final_obs[index] = {name: part[index].copy() for name, part in last.items()}
            self._reset_one(index)
        return {
            **self._info(),
            "final_obs": final_obs,
            "_final_obs": ended,
            "final_info": masked(info, ended),
            "_final_info": ended.copy(),
        }

    # -- what is seen -----------------------------------------------------------------------------

    def _observe(self) -> Observation:
        state = self.simulation.state
        if not self._copy:
            return {"queue": state.queue, "server": state.server_obs}
        queue = np.empty_like(state.queue)
        self._threads.run(state, lambda part, own: np.copyto(queue[own], part.queue))
        return {"queue": queue, "server": state.server_obs.copy()}

    def _info(self) -> Info:
        state = self.simulation.state
        info: Info = {
            "dt": state.dt.copy(),
            "round": state.ran_round.copy(),
            "invalid_action": state.invalid.copy(),
        }
        if self.options.interface == "sequential":
            info["action_mask"] = state.mask.copy()
        return unmasked(info, self.num_envs)

    def summary(self, index: int = 0) -> dict[str, Any]:
        """Metrics of an episode so far (`laps_env.sim.metrics.summarize`), and its ``return``."""
        workload = self.workload(index)
        reference = self.options.get_scenario().server.reference_draft_length
        alone = time_alone_ns(workload, self.options.server, reference)
        state, requests = self.simulation.state, self.simulation.requests(index)
        metrics = summarize(
            requests, state.servers[index], state.gaps[index], alone, workload.categories
        )
        return {**metrics, "return": float(self._returns[index])}

    def render(self) -> tuple[str, ...] | tuple[npt.NDArray[np.uint8], ...] | None:
        """Request tables as text (``"ansi"``) or as pictures (``"rgb_array"``), one each."""
        if self.render_mode is None:
            return None
        views = [self.view(index) for index in range(self.num_envs)]
        if self.render_mode == "ansi":
            return tuple(map(as_text, views))
        if not self._pictures:
            self._pictures = [Picture(self.metadata["render_fps"]) for _ in views]
        return tuple(p.frame(view) for p, view in zip(self._pictures, views, strict=True))

    def view(self, index: int = 0) -> View:
        """Environment ``index`` as a person is shown it."""
        return view_of(self.simulation, index, self.workload(index), self.options)

    @property
    def is_running(self) -> bool:
        """Whether every environment is in an episode."""
        return not self._ended.any()

    @property
    def is_seeded(self) -> bool:
        """Whether every environment has got its seed."""
        return bool((self._seeds >= 0).all())

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Valid actions now, bool [E, slots + 1] (the name that sb3-contrib looks for)."""
        return self.simulation.state.mask.astype(np.bool_)

    def workload(self, index: int = 0) -> Workload:
        """Workload of environment ``index`` with its true lengths and acceptance.

        The explicit door for clairvoyant references and for tests: no observation or info holds
        any of this before the episode ends.
        """
        workload = self.simulation.workloads[index]
        if workload is None:
            raise gym.error.ResetNeeded("reset the environment first")
        return workload
