"""`SpecDecodeReplayVectorEnv`: many replay servers in one compiled step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from laps_env.envs.episodes import Episodes, Seeds, checked_options, checked_seeds, to_reset
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
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH
from laps_env.sim.loops import step_drafts, step_scores, step_sequential
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
Table = npt.NDArray[np.float32]
Step = tuple[Observation, npt.NDArray[np.float64], Bools, Bools, Info]


#: Compiled step of each interface.
STEPS = {"sequential": step_sequential, "scores": step_scores, "drafts": step_drafts}


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
        self.copies = copy
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
            drafts_by_agent=interface == "drafts",
        )
        self._refuses = on_invalid == "error" and interface != "scores"
        step = STEPS[interface]
        given = self.simulation.constants, float(reward_scale)
        self._threads = Threads(step, given, num_threads, num_envs)
        self.max_episode_steps = max_episode_steps or UNLIMITED
        self._started = False
        self._everyone = np.ones(num_envs, np.bool_)
        self._episodes = Episodes(self.options, num_envs)
        self._steps = np.zeros(num_envs, np.int64)
        self._invalid = np.zeros(num_envs, np.int64)  # of these
        self._returns = np.zeros(num_envs)
        self._ended = np.ones(num_envs, np.bool_)
        self.is_running = False  # whether every environment is in an episode

    # -- reset ------------------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: Seeds = None,
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
        options = checked_options(options)
        chosen = to_reset(options.get("reset_mask"), self.num_envs)
        if not (self._started or chosen.all()):
            raise gym.error.ResetNeeded("reset_mask: reset all environments first")
        seeds = checked_seeds(seed, self.num_envs)
        super().reset(seed=seeds[0] if isinstance(seed, int | np.integer) else None)
        indices = np.flatnonzero(chosen).tolist()
        self._episodes.seed(indices, seeds, self.np_random)
        for index in indices:
            self._reset_one(index, options)
        self._started = True
        self.is_running = not self._ended.any()
        queue = self.simulation.state.queue
        return self._seen(queue.copy() if self.copies else queue), masked(self._info(), chosen)

    def _reset_one(self, index: int, options: dict[str, Any] | None = None) -> None:
        """Start the next episode of one; a workload that is refused changes nothing."""
        workload = self._episodes.workload(index, options or {})
        weights = self.options.request_weights(workload)
        self.simulation.start(index, workload)
        self.simulation.requests(index)["weight"] = weights
        self._episodes.begin(index)
        self._steps[index] = self._invalid[index] = 0
        self._returns[index] = 0.0
        self._ended[index] = False

    # -- step -------------------------------------------------------------------------------------

    def step(self, actions: npt.NDArray[Any]) -> Step:
        """Take one action per environment.

        Raises:
            ValueError: Actions are of another shape or out of range (nothing has moved then).
            gymnasium.error.ResetNeeded: Called before `reset`, or, with ``DISABLED``, after an
                episode's end.
        """
        space, options = self.action_space, self.options
        return self.take(check_actions("actions", actions, space, options.interface, options.slots))

    def take(self, actions: npt.NDArray[Any]) -> Step:
        """Take actions that `laps_env.envs.spaces.check_actions` has checked (see `step`)."""
        queue, reward, terminated, truncated = self.advance(actions)
        info = self._info()
        if not self.is_running:
            ended = np.flatnonzero(self._ended).tolist()
            summaries = {index: self.summary(index) for index in ended}
            add_summaries(info, summaries, self._ended)
            if self.autoreset_mode == AutoresetMode.SAME_STEP:
                info = self._reset_same_step(info, queue)
        return self._seen(queue), reward, terminated, truncated, info

    def advance(
        self, actions: npt.NDArray[Any]
    ) -> tuple[Table, npt.NDArray[np.float64], Bools, Bools]:
        """Take checked actions: the request tables, rewards, and who has terminated, or been cut.

        The rest of what a step returns is in the state of the simulation then.
        """
        skip = self._ended
        if not self.is_running:
            ended = np.flatnonzero(skip).tolist()
            if not (self._started and self.autoreset_mode == AutoresetMode.NEXT_STEP):
                raise gym.error.ResetNeeded(f"step: expected reset first in environments {ended}")
            skip = skip.copy()
            for index in ended:
                self._reset_one(index)
        state = self.simulation.state
        if self._refuses:
            check_allowed(actions.reshape(self.num_envs, -1)[:, 0], state.mask, skip)
        queue = np.empty_like(state.queue) if self.copies else state.queue
        self._move(actions, skip, queue)
        self._charge(skip)
        reward, terminated, truncated = (
            state.reward.copy(),
            state.terminated.copy(),
            state.truncated.copy(),
        )
        self._returns += reward
        self._steps += ~skip
        self._invalid += state.invalid
        if self.max_episode_steps < UNLIMITED:
            truncated |= self._steps >= self.max_episode_steps
            truncated &= ~terminated
        self._ended = terminated | truncated
        self.is_running = not self._ended.any()
        return queue, reward, terminated, truncated

    def _move(self, actions: npt.NDArray[Any], skip: Bools, queue: Table) -> None:
        """All that are not skipped take their actions; all tables are copied to ``queue``."""
        given = -actions if self.options.interface == "scores" else actions
        shown = queue if self.copies else queue[:0]
        self._threads.run(self.simulation.state, given, skip, shown)

    def _charge(self, skip: npt.NDArray[np.bool_]) -> None:
        """The rewards under another objective than the default, which the round itself knows."""
        state, scale = self.simulation.state, self.options.reward_scale
        if not self.options.is_default_objective:
            objective = list(OBJECTIVES).index(self.options.objective)
            charge(state, objective, skip, scale)
        if self.options.on_invalid == "penalty":
            state.reward[state.invalid & ~skip] -= 1 / scale

    def _reset_same_step(self, info: Info, queue: Table) -> Info:
        """Those that have ended start anew; their last observation and info go to ``final_*``."""
        ended = self._ended.copy()
        final_obs = np.full(self.num_envs, None, object)
        last = self._seen(queue)
        for index in np.flatnonzero(ended).tolist():
            final_obs[index] = {name: part[index].copy() for name, part in last.items()}
            self._reset_one(index)
            queue[index] = self.simulation.state.queue[index]
        self.is_running = True
        return {
            **self._info(),
            "final_obs": final_obs,
            "_final_obs": ended,
            "final_info": masked(info, ended),
            "_final_info": ended.copy(),
        }

    # -- what is seen -----------------------------------------------------------------------------

    def _seen(self, queue: Table) -> Observation:
        """Observation with the tables as they have been copied."""
        server = self.simulation.state.server_obs
        return {"queue": queue, "server": server.copy() if self.copies else server}

    def _info(self) -> Info:
        state = self.simulation.state
        info: Info = {
            "dt": state.dt.copy(),
            "round": state.ran_round.copy(),
            "invalid_action": state.invalid.copy(),
        }
        if self.options.interface != "scores":
            info["action_mask"] = state.mask.copy()
        return unmasked(info, self._everyone)

    def summary(self, index: int = 0) -> dict[str, Any]:
        """Metrics of an episode so far (`laps_env.sim.metrics.summarize`), and of its agent.

        These are its ``return``, and the ``invalid_share`` of its actions that were masked.
        """
        workload = self.workload(index)
        reference = self.options.get_scenario().server.reference_draft_length
        alone = time_alone_ns(workload, self.options.server, reference)
        state, requests = self.simulation.state, self.simulation.requests(index)
        metrics = summarize(
            requests, state.servers[index], state.gaps[index], alone, workload.categories
        )
        share = float(self._invalid[index] / max(self._steps[index], 1))
        return {**metrics, "return": float(self._returns[index]), "invalid_share": share}

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
    def is_seeded(self) -> bool:
        """Whether every environment has got its seed."""
        return self._episodes.is_seeded

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Valid actions now, bool [E, slots + 1] (the name that sb3-contrib looks for).

        With draft lengths in the actions [E, slots + 18]: every draft length is valid.
        """
        masks: Bools = self.simulation.state.mask.astype(np.bool_)
        if self.options.interface == "drafts":
            masks = np.pad(masks, ((0, 0), (0, MAX_DRAFT_LENGTH + 1)), constant_values=True)
        return masks

    def workload(self, index: int = 0) -> Workload:
        """Workload of environment ``index`` with its true lengths and acceptance.

        The explicit door for clairvoyant references and for tests: no observation or info holds
        any of this before the episode ends.
        """
        workload = self.simulation.workloads[index]
        if workload is None:
            raise gym.error.ResetNeeded("reset the environment first")
        return workload
