"""`SpecDecodeReplay`: the single environment, in front of a vector environment of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from laps_env.envs.gymnasium_api import step_limit_of_make
from laps_env.envs.infos import Info, first
from laps_env.envs.picture import Picture
from laps_env.envs.rendering import as_text, check_render_mode
from laps_env.envs.spaces import check_actions
from laps_env.envs.vector import Observation, SpecDecodeReplayVectorEnv
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH, POLICY
from laps_env.sim.server_model import DraftLength
from laps_env.sim.simulation import Simulation
from laps_env.sim.workload import Workload
from laps_env.utils.splits import Split
from laps_env.workloads.predictors import PredictorError
from laps_env.workloads.scenarios import DEFAULT_SCENARIO, Scenario


class SpecDecodeReplay(gym.Env[Observation, Any]):
    """Schedule the rounds of a speculative-decoding server, replayed from calibrated behaviour.

    ## Description
    Requests arrive at a server with a small draft model and a large target model. In a *round* the
    draft proposes a few tokens for each request of the batch and the target verifies them in one
    pass; a request commits its accepted tokens and one more. How many are accepted differs from
    request to request and from round to round, so nobody knows how long a request will take. The
    agent decides, round by round, which requests are served next. The reference policy is LAPS-SD
    (arXiv 2505.17074): least attained service while a request's acceptance rate is uncertain,
    shortest estimated time once it is stable.

    Acceptance is replayed position by position, so every order of serving and every draft length
    meets the same text; costs come from measured grids. `docs/physics.md` has every rule.

    ## Action Space
    ``Discrete(slots + 1)``: ``i < slots`` puts the request in slot i into the next round, ``slots``
    starts the round now. Time moves only when a round runs. It starts by itself when the batch is
    full or nothing that fits is left to add; at batch size 1 every action is a round. A masked
    action (an empty slot, a request already picked or too large for the pool's room, starting an
    empty round) starts the round with what is picked, or with the earliest arrival alone, and is
    flagged in ``info["invalid_action"]``; at batch size 1 an agent whose actions are all masked
    plays first come, first served. ``on_invalid`` makes it cost more, or an error. An action
    outside the space raises ``ValueError``.

    With ``interface="drafts"`` (``laps_env/SpecDecodeReplayDrafts-v0``) the agent decides how much
    to speculate, too: ``MultiDiscrete([slots + 1, 17])``, a pick with the tokens that the request
    drafts in the coming round, 0 to 16; the pool holds room for all of them while it is picked.
    With ``draft_length="confidence:T:N"`` T stops a draft before that. What is served in place of a
    masked action drafts as the scenario does, there at most N; other rules are refused.

    With ``interface="scores"`` (``laps_env/SpecDecodeReplayScores-v0``) an action is a whole
    round: ``Box(-1, 1, (slots,))`` scores, and the highest that fit are served, ties by arrival.

    ## Observation Space
    ``Dict(queue=Box(slots, 24), server=Box(8))``, float32, physical units; empty slots are zero. A
    request keeps its slot from admission to completion. The columns, with units and bounds, are
    `laps_env.sim.observation.QUEUE_COLUMNS` and ``SERVER_COLUMNS`` (listed in
    `docs/environment.md`); only the times left to limits can be negative. No true length and no
    future acceptance is in them.

    ## Rewards
    Minus what the step has cost, divided by ``reward_scale``. By default that is the integral
    of the number of requests in the system (backlog included, arrivals inside a round counted
    from their instant), in request-seconds: the return is minus the total latency. With
    ``objective="tail_latency"`` a request costs the square of its latency, which grows as long
    as it is unfinished: the return is minus the sum of squares, in which one latency of 10 s
    weighs as much as a hundred of 1 s. With ``"slo_attainment"`` it costs 1 at the end of the
    round in which it is certain to miss one of its limits (for the limit per token, when it is
    complete): the return is minus the number of requests outside their limits. Each request's
    cost can be weighted by its category. A pick that starts no round takes no time and earns 0.
    Discounting per step is therefore wrong (steps of one round share an instant): use gamma =
    1, or gamma ** ``info["dt"]``.

    ## Starting State
    An empty server at the first arrival. The workload is drawn before anything runs from (split,
    seed, episode), and never depends on actions.

    ## Episode End
    Terminated when all ``num_requests`` requests are finished. Truncated after the round in which
    ``time_limit_s`` of simulated time have passed since the first arrival, when more than
    ``queue_limit`` requests are in the system, or after ``max_episode_steps``; unfinished requests
    then count with their latency so far.

    ## Information
    ``dt`` (seconds that the step took), ``round`` (a round ran), ``invalid_action``,
    ``action_mask`` (int8 [slots + 1]; also `action_masks`; never all zero: when nobody is left to
    serve, starting a round is what remains), and at the end ``summary``: mean and percentiles of
    latency, time to first token and time per output token, stalls, limits kept, slowdown,
    throughput, pre-emptions, fairness, the return (`laps_env.sim.metrics.summarize`; formulas in
    `docs/metrics.md`).

    ## Arguments
    ```python
    gym.make("laps_env:laps_env/SpecDecodeReplay-v0", scenario="mixed-serial-8b", load=0.9)
    ```

    Args:
        scenario: Name from ``laps-env list``, or a `laps_env.workloads.scenarios.Scenario`.
        load: Arrival rate as a fraction of the scenario's saturation throughput, > 0;
            ``"recorded"`` plays a recorded arrival trace at its own speed.
        num_requests: Requests in an episode, >= 1.
        slots: Slots of the request table, >= the batch size; further requests wait in a backlog.
        batch_size: Most requests in a round (the scenario's by default).
        draft_length: Tokens drafted a round, 0 (no speculation) to 16; ``"smartspec"``,
            ``"sglang"``, ``"rate"``, ``"confidence:T:N"`` or ``"topk:N"``; a tuple of numbers by
            batch size; or ``"policy"``, what `ask_drafts` says (the scenario's by default).
        pool_tokens: Key-value pool in tokens (the scenario's by default).
        predictor_error: Standard deviation of log(predicted / true output length), a
            `laps_env.workloads.predictors.LengthPredictor`, or ``"recorded"``; by default the
            scenario's own, else the predictions recorded with the requests, where there are
            none a deviation of 0.5. ``"refreshed"``: these, told anew while a request runs.
        time_limit_s: Simulated time, in seconds from the first arrival, at which an episode is
            truncated; never by default.
        queue_limit: Requests in the system beyond which it is truncated; none by default.
        reward_scale: Cost per unit of reward, > 0; by default in request-seconds.
        objective: Cost that the rewards add up to, see Rewards: ``"mean_latency"`` (default),
            ``"tail_latency"`` or ``"slo_attainment"``.
        category_weights: Factors, >= 0, of the cost of requests by the name of their category; 1
            where none is given.
        split: Part of all traffic that episodes are drawn from: ``"train"`` (default),
            ``"validation"`` or ``"test"``, which share nothing.
        interface: Kind of action, ``"sequential"``, ``"drafts"`` or ``"scores"``.
        on_invalid: What a masked action does: ``"serve_first"`` (default) starts the round without
            it, ``"penalty"`` costs 1 in addition, before ``reward_scale``, ``"error"`` raises
            ``ValueError`` before anything moves.
        max_episode_steps: Steps after which an episode is truncated; never by default.
        render_mode: None, ``"ansi"`` (a text), ``"rgb_array"`` (a picture, uint8 [640, 960, 3]) or
            ``"human"`` (a window); the last two need pygame (the extra ``render``).

    ``reset(options=...)`` takes ``workload`` (a `laps_env.workloads.Workload`) or
    ``workload_seed`` (an int), each for this episode alone; other keys raise ``ValueError``.

    Raises:
        ValueError: An argument is out of range; the message names it, what was expected and what
            came.

    ## References
    LAPS-SD: arXiv 2505.17074 (IJCAI 2025). Speculative decoding: arXiv 2211.17192.

    ## Version History
    - v0: first version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium's own form)
        "render_modes": ["ansi", "rgb_array", "human"],
        "render_fps": 4,
    }

    def __init__(
        self,
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
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode, self.metadata["render_modes"])
        envs = SpecDecodeReplayVectorEnv(
            1,
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
            max_episode_steps=max_episode_steps,
            autoreset_mode=AutoresetMode.DISABLED,
        )
        self._stand_before(envs, render_mode)

    def _stand_before(self, envs: SpecDecodeReplayVectorEnv, render_mode: str | None) -> None:
        """Show the only environment of a vector of one as a single environment."""
        envs.max_episode_steps = min(envs.max_episode_steps, step_limit_of_make())
        self._envs = envs
        self._picture: Picture | None = None
        self.render_mode = render_mode
        self.observation_space = envs.single_observation_space
        self.action_space = envs.single_action_space
        self.options = envs.options

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Start an episode (see the class: Starting State, Arguments)."""
        super().reset(seed=seed)
        if seed is None and not self._envs.is_seeded:
            seed = int(self.np_random.integers(2**31))
        if isinstance(options, dict) and "reset_mask" in options:
            raise ValueError("reset options: reset_mask is for the vector environment")
        observation, info = self._envs.reset(seed=seed, options=options)
        self._show()
        return _first(observation), first(info)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """Take one action (see the class).

        Raises:
            ValueError: The action is outside the space.
            gymnasium.error.ResetNeeded: Called before `reset` or after the episode's end.
        """
        if not self._envs.is_running:
            raise gym.error.ResetNeeded("step: expected reset first: no episode is running")
        options = self.options
        action = check_actions(
            "action", action, self.action_space, options.interface, options.slots
        )
        queue, reward, terminated, truncated = self._envs.advance(action[None])
        self._show()
        state = self.simulation.state
        info: Info = {
            "dt": state.dt.item(),
            "round": state.ran_round.item(),
            "invalid_action": state.invalid.item(),
        }
        if self.options.interface != "scores":
            info["action_mask"] = state.mask[0].copy()
        if not self._envs.is_running:
            info["summary"] = self.summary()
        observation = {"queue": queue[0], "server": state.server_obs[0].copy()}
        return observation, reward.item(), terminated.item(), truncated.item(), info

    def ask_drafts(self, longest: npt.ArrayLike, threshold: npt.ArrayLike) -> None:
        """Say how much each slot's request drafts from now on, where ``draft_length="policy"``.

        Args:
            longest: Most tokens, 0..16, [slots].
            threshold: Product of confidences below which the draft stops, 0..1, [slots].

        Raises:
            ValueError: The draft length is another, or a number is out of range.
        """
        if self.options.server.draft_length != POLICY:
            given = self.options.server.draft_length
            raise ValueError(f"draft_length: expected 'policy' where drafts are asked, got {given}")
        slots = self.simulation.state.slots[0]
        for name, most, values in (
            ("asked", MAX_DRAFT_LENGTH, np.asarray(longest)),
            ("threshold", 1, np.asarray(threshold)),
        ):
            if values.shape != slots.shape or not ((values >= 0) & (values <= most)).all():
                raise ValueError(f"{name}: expected {slots.size} numbers 0..{most}, got {values}")
            slots[name] = values

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Valid actions now, bool [slots + 1] or, with draft lengths, [slots + 18] (for SB3)."""
        mask: npt.NDArray[np.bool_] = self._envs.action_masks()[0]
        return mask

    def summary(self) -> dict[str, Any]:
        """Metrics of the episode so far."""
        return self._envs.summary(0)

    @property
    def simulation(self) -> Simulation:
        """Server behind the observation, for tools that show what happens in it."""
        return self._envs.simulation

    def workload(self) -> Workload:
        """Requests with their true lengths and acceptance: the door for clairvoyant references."""
        return self._envs.workload(0)

    def render(self) -> str | npt.NDArray[np.uint8] | None:
        """Request table as text, or a picture, uint8 [640, 960, 3]; see ``render_mode``."""
        if self.render_mode == "ansi":
            return as_text(self._envs.view())
        if self.render_mode == "rgb_array":
            return self._pictures().frame(self._envs.view())
        return None

    def close(self) -> None:
        """Close the window of ``render_mode="human"``."""
        if self._picture is not None:
            self._picture.close()

    def _pictures(self) -> Picture:
        self._picture = self._picture or Picture(self.metadata["render_fps"])
        return self._picture

    def _show(self) -> None:
        if self.render_mode == "human":
            self._pictures().show(self._envs.view())


def _first(observation: Observation) -> Observation:
    return {name: part[0] for name, part in observation.items()}
