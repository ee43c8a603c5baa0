"""`SpecDecodeLive`: the environment on real models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from laps_env.envs.rendering import check_render_mode
from laps_env.envs.replay import SpecDecodeReplay
from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET, Pair, load_pair
from laps_env.live.engine.verification import Decoding
from laps_env.live.prompt_server import PromptServer, prompt_requests
from laps_env.live.prompts import DEMO_PROMPTS
from laps_env.live.recorded_server import RecordedServer
from laps_env.live.server import Clock, LiveServer
from laps_env.sim.server_model import DraftLength
from laps_env.utils.checks import check_one_of
from laps_env.utils.splits import Split
from laps_env.workloads.scenarios import Scenario

#: Who says how much of a draft is accepted.
Judge = Literal["live", "recorded"]


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

    With ``acceptance="recorded"`` the requests are those of the scenario, recorded or generated, as
    a replay has them: prompts are random tokens, all passes are real, but how many draft tokens
    count as accepted, and where a text ends, is read from the workload. So the rounds of a large
    pair can be scheduled and timed without its checkpoint, on models of random weights. Under the
    calibrated clock such an episode equals the replay bit for bit.

    ## Arguments
    ```python
    gym.make("laps_env:laps_env/SpecDecodeLive-v0", scenario="demo", num_requests=8)
    gym.make(
        "laps_env:laps_env/SpecDecodeLive-v0",
        target="random:llama-2-7b",
        draft="random:llama-68m",
        acceptance="recorded",
        scenario="specbench-serial-7b",
        slots=16,
    )
    ```

    Args:
        target: Folder or hub name of the target model (default: the demo pair, `make demo-models`),
            ``"random:NAME"`` for random weights of a named architecture
            (`laps_env.live.engine.random_weights.RandomWeights`), or a
            `laps_env.live.engine.loading.Pair` that is loaded already.
        draft: Folder or hub name of a draft model, ``"random:NAME"``, folder of a draft head, or
            ``"prompt-lookup"``.
        acceptance: Judge of the drafts, ``"live"`` (the target) or ``"recorded"``, see Description.
        device: Device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        dtype: Type of the weights: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        prompts: Prompt files (`laps_env.live.prompts.read_questions`), where acceptance is live.
        max_new_tokens: Most output tokens of a request, where acceptance is live.
        temperature, top_p: Choice of tokens; temperature 0 is greedy, and only greedy texts do not
            depend on the schedule's draft lengths.
        clock: Clock of the rounds, ``"measured"`` or ``"calibrated"``, see Description.
        step_log: File that gets a step log of the episodes (`laps_env.traces.step_log`).
        slots: Slots of the request table; on the device each holds a cache of the longest request.
        draft_length: Argument of `SpecDecodeReplay`, but not ``"topk:N"``. By ``"confidence:T:N"``
            and ``"policy"`` drafts stop by the probabilities that the draft itself states, of which
            prompt lookup has none, or, where acceptance is recorded, by the workload's confidences.
        scenario, load, num_requests, batch_size, pool_tokens, time_limit_s, queue_limit,
            reward_scale, objective, category_weights, split, interface, on_invalid,
            max_episode_steps, render_mode: Arguments of `SpecDecodeReplay`. There is no
            ``predictor_error``, where nobody knows the true length: a length model predicts it
            from the prompt.

    Raises:
        ValueError: An argument out of range, models that do not go together, a prompt longer than
            the context; at a reset, a workload that cannot be served.
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
        acceptance: Judge = "live",
        prompts: Sequence[str] = (DEMO_PROMPTS,),
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        clock: Clock = "measured",
        step_log: str | Path | None = None,
        scenario: str | Scenario = "demo",
        load: float | str = 0.9,
        num_requests: int = 200,
        slots: int = 64,
        batch_size: int | None = None,
        draft_length: DraftLength | None = None,
        pool_tokens: int | None = None,
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
        check_one_of("clock", clock, get_args(Clock))
        check_one_of("acceptance", acceptance, get_args(Judge))
        decoding = Decoding(temperature, top_p)
        if not isinstance(target, Pair):
            target = load_pair(target, draft, device=device, dtype=dtype)
        options: dict[str, Any] = {
            "decoding": decoding,
            "step_log": None if step_log is None else Path(step_log),
            "scenario": scenario,
            "load": load,
            "num_requests": num_requests,
            "slots": slots,
            "batch_size": batch_size,
            "draft_length": draft_length,
            "pool_tokens": pool_tokens,
            "time_limit_s": time_limit_s,
            "queue_limit": queue_limit,
            "reward_scale": reward_scale,
            "objective": objective,
            "category_weights": category_weights,
            "split": split,
            "interface": interface,
            "on_invalid": on_invalid,
            "max_episode_steps": max_episode_steps,
        }
        envs: LiveServer
        if acceptance == "recorded":
            envs = RecordedServer(target, clock, **options)
        else:
            requests = prompt_requests(target, prompts, max_new_tokens)
            envs = PromptServer(target, clock, requests, **options)
        self._stand_before(envs, render_mode)

    def provenance(self) -> dict[str, str]:
        """Judge of the drafts, names of the models, device, type and clock."""
        assert isinstance(self._envs, LiveServer)  # it was made so
        pair = self._envs.pair
        return {
            "acceptance": "recorded" if isinstance(self._envs, RecordedServer) else "live",
            "target": Path(pair.target_name).name,
            "draft": Path(pair.draft_name).name,
            "device": str(pair.target.device),
            "dtype": str(pair.target.dtype).removeprefix("torch."),
            "clock": self._envs.clock,
        }
