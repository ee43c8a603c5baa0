"""`SpecDecodeLive`: the environment on real models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from laps_env.envs.rendering import check_render_mode
from laps_env.envs.replay import SpecDecodeReplay
from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.live.engine.engine import Generation
from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET, Pair, load_pair
from laps_env.live.engine.verification import Decoding
from laps_env.live.prompts import DEMO_PROMPTS, read_questions
from laps_env.live.requests import PromptRequests
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH
from laps_env.sim.loops import (
    close_as_measured,
    close_at_cost,
    open_for_work,
    open_scores,
    open_sequential,
)
from laps_env.utils.checks import check_one_of
from laps_env.utils.splits import Split, as_split
from laps_env.workloads import Workload
from laps_env.workloads.length_model import LengthModel
from laps_env.workloads.scenarios import Scenario, get_scenario

Clock = Literal["measured", "calibrated"]


class SpecDecodeLive(SpecDecodeReplay):
    """Schedule the rounds of a speculative-decoding server that really runs.

    ## Description
    As `laps_env.envs.replay.SpecDecodeReplay`, with real models behind it: a round drafts and
    verifies real tokens of real prompts. Spaces, observations, rewards, masks and the summary are
    the same, so every policy and trained agent runs on both. Arrivals are simulated: waiting for
    the next one takes no real time.

    With ``clock="measured"`` a round takes as long as the device took; what the scheduler takes is
    not counted, ``summary["scheduling_s"]`` has it. With ``clock="calibrated"`` the models run, and
    a round takes what the scenario's cost model says: then a replay of the recorded texts agrees
    bit for bit.

    ## Arguments
    ```python
    gym.make("laps_env:laps_env/SpecDecodeLive-v0", scenario="demo", num_requests=8)
    ```

    Args:
        target: Folder or hub name of the target model (default: the demo pair, `make demo-models`),
            or a `laps_env.live.engine.loading.Pair` that is loaded already.
        draft: Folder or hub name of a draft model, folder of a draft head, or ``"prompt-lookup"``.
        device: Device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        dtype: Type of the weights: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        prompts: Prompt files (`laps_env.live.prompts.read_questions`).
        max_new_tokens: Most output tokens of a request.
        temperature, top_p: Choice of tokens; temperature 0 is greedy, and only greedy texts do not
            depend on the schedule's draft lengths.
        clock: Clock of the rounds, ``"measured"`` or ``"calibrated"``, see Description.
        scenario, load, num_requests, slots, batch_size, draft_length, pool_tokens, time_limit_s,
            queue_limit, reward_scale, split, interface, max_episode_steps, render_mode: Arguments
            of `SpecDecodeReplay`. There is no ``predictor_error``, where nobody knows the true
            length: a length model predicts it from the prompt.

    Raises:
        ValueError: An argument out of range, models that do not go together, a prompt longer than
            the context.
        FloatingPointError: A model's logits are not finite.

    ## Information
    At the end, ``summary`` has in addition ``scheduling_s``, the seconds from the reset to the end
    of the last round that were not spent in rounds, and ``texts``, what was generated, request by
    request.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        *,
        target: str | Path | Pair = DEMO_TARGET,
        draft: str | Path = DEMO_DRAFT,
        device: str = "auto",
        dtype: str = "auto",
        prompts: Sequence[str] = (DEMO_PROMPTS,),
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        clock: Clock = "measured",
        scenario: str | Scenario = "demo",
        load: float | str = 0.9,
        num_requests: int = 200,
        slots: int = 64,
        batch_size: int | None = None,
        draft_length: int | str | None = None,
        pool_tokens: int | None = None,
        time_limit_s: float | None = None,
        queue_limit: int | None = None,
        reward_scale: float = 1.0,
        split: str = Split.TRAIN,
        interface: str = "sequential",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode, self.metadata["render_modes"])
        check_one_of("clock", clock, get_args(Clock))
        decoding = Decoding(temperature, top_p)
        if not isinstance(target, Pair):
            target = load_pair(target, draft, device=device, dtype=dtype)
        envs = LiveServer(
            target,
            prompt_requests(target, prompts, max_new_tokens),
            decoding,
            clock,
            scenario=scenario,
            load=load,
            num_requests=num_requests,
            slots=slots,
            batch_size=batch_size,
            draft_length=draft_length,
            pool_tokens=pool_tokens,
            time_limit_s=time_limit_s,
            queue_limit=queue_limit,
            reward_scale=reward_scale,
            split=split,
            interface=interface,
            max_episode_steps=max_episode_steps,
        )
        self._stand_before(envs, render_mode)

    def provenance(self) -> dict[str, str]:
        """Names of the models, the device, the type and the clock."""
        assert isinstance(self._envs, LiveServer)  # it was made so
        pair = self._envs.pair
        return {
            "target": Path(pair.target_name).name,
            "draft": Path(pair.draft_name).name,
            "device": str(pair.target.device),
            "dtype": str(pair.target.dtype).removeprefix("torch."),
            "clock": self._envs.clock,
        }


def prompt_requests(pair: Pair, prompts: Sequence[str], max_new_tokens: int) -> PromptRequests:
    """Requests from prompt files, in the tokens of a pair, with predicted lengths.

    Args:
        pair: Models that will serve them.
        prompts: Prompt files (`laps_env.live.prompts.read_questions`).
        max_new_tokens: Most output tokens of a request.

    Raises:
        ValueError: A prompt is longer than the context, or there are too few.
    """
    return PromptRequests(
        read_questions(prompts),
        pair.tokenizer,
        limit=max_new_tokens,
        context=pair.context - MAX_DRAFT_LENGTH - 1,
        length_model=LengthModel.load(),
    )


class LiveServer(SpecDecodeReplayVectorEnv):
    """Vector environment of one behind `SpecDecodeLive`: same table, real rounds.

    Args:
        pair: Models that serve.
        requests: Prompts that are served, in place of the scenario's requests.
        decoding: Choice of tokens.
        clock: Clock of the rounds.
        scenario: Scenario whose server and arrivals count.
        **options: Other options of the vector environment.
    """

    def __init__(
        self,
        pair: Pair,
        requests: PromptRequests,
        decoding: Decoding,
        clock: Clock,
        *,
        scenario: str | Scenario,
        **options: Any,
    ) -> None:
        served = replace(get_scenario(scenario), requests=requests)
        super().__init__(1, scenario=served, autoreset_mode=AutoresetMode.DISABLED, **options)
        self.pair, self.requests, self.clock = pair, requests, clock
        self.engine = pair.engine(
            slots=self.options.slots,
            length=requests.longest + requests.limit + MAX_DRAFT_LENGTH + 1,
            decoding=decoding,
        )
        self.generations: list[Generation] = []
        self._reset_at = self._moved_at = self._in_rounds_ns = 0

    def _reset_one(self, index: int, options: dict[str, Any] | None = None) -> None:
        super()._reset_one(index, options)
        workload = super().workload(index)
        if workload.source_index is None or workload.draft_schedule is not None:
            raise ValueError(
                "workload: expected one of this environment's own, with prompts and no draft "
                "schedule, got another"
            )
        for generation in self.generations:
            self.engine.drop(generation)
        prompts = self.requests.prompts(as_split(self.options.split))
        self.generations = [
            self.engine.start(prompts[source].tokens, int(limit), seed=number)
            for number, (source, limit) in enumerate(
                zip(workload.source_index, workload.output_tokens, strict=True)
            )
        ]
        self._in_rounds_ns = 0
        self._reset_at = self._moved_at = time.perf_counter_ns()

    def _move(self, actions: npt.NDArray[Any], skip: npt.NDArray[np.bool_]) -> None:
        simulation = self.simulation
        constants, state = simulation.constants, simulation.state
        scale = self.options.reward_scale
        if self.options.interface == "sequential":
            starts = open_sequential(constants, state, int(actions[0]), scale)
        else:
            starts = open_scores(constants, state, -actions[0].astype(np.float64))
        if not starts:
            return
        self._work(open_for_work(constants, state))
        times = self.engine.times
        self._in_rounds_ns += times.total
        if self.clock == "calibrated":
            close_at_cost(constants, state, scale)
        else:
            close_as_measured(constants, state, scale, times.total, times.draft, times.verify)
        self._moved_at = time.perf_counter_ns()

    def _work(self, draft_length: int) -> None:
        """Run the round for the picked slots, and note what it did where the kernel looks."""
        state = self.simulation.state
        slots, requests = state.slots[0], state.requests[0]
        self._evict(slots)
        picked = state.batch[0, : state.servers[0]["picked"]]
        chosen = [self.generations[slots[index]["request"]] for index in picked]
        for index, generation, result in zip(
            picked, chosen, self.engine.run_round(chosen, draft_length), strict=True
        ):
            request = requests[slots[index]["request"]]
            position = request["offset"] + slots[index]["generated"]
            state.accepted_length[0, position] = result.accepted
            state.max_draft[0, position] = result.drafted
            if generation.finished:
                request["output_tokens"] = len(generation.output)

    def _evict(self, slots: npt.NDArray[Any]) -> None:
        """Take off the device what the kernel has evicted."""
        for slot in slots[(slots["request"] >= 0) & (slots["resident"] == 0)]:
            generation = self.generations[slot["request"]]
            if generation.slot is not None:
                leave = self.engine.offload if slot["swapped"] else self.engine.drop
                leave(generation)

    def summary(self, index: int = 0) -> dict[str, Any]:
        """Metrics of the episode so far, ``scheduling_s`` and ``texts``."""
        outside = self._moved_at - self._reset_at - self._in_rounds_ns
        return {
            **super().summary(index),
            "scheduling_s": outside * 1e-9,
            "texts": tuple(
                self.pair.tokenizer.decode(g.output, skip_special_tokens=True)
                for g in self.generations
            ),
        }

    def workload(self, index: int = 0) -> Workload:
        """What has come true of the workload: unfinished texts count with their limit.

        Acceptance is known where a round began, and 0 elsewhere.
        """
        workload = super().workload(index)
        requests = self.simulation.requests(index)
        state = self.simulation.state
        lengths = requests["output_tokens"].astype(np.int64)
        flat = np.concatenate(
            [
                np.arange(length) + start
                for length, start in zip(lengths, requests["offset"], strict=True)
            ]
        )
        return replace(
            workload,
            output_tokens=lengths,
            accepted_length=state.accepted_length[index, flat],
            max_draft=state.max_draft[index, flat],
        )
