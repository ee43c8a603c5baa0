"""A live server and its replay side by side, on the same requests under the same policies."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from laps_env import policies
from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.evaluation.grid import TEST_SEEDS
from laps_env.live.engine.engine import Engine
from laps_env.live.engine.loading import Pair
from laps_env.live.env import Judge
from laps_env.live.measure.agreement import METRICS, Exactness, Metrics, compare_rounds
from laps_env.live.measure.calibration import Grid
from laps_env.live.measure.recording import Recorder, assemble
from laps_env.live.prompt_server import PromptServer, prompt_requests
from laps_env.live.prompts import DEMO_PROMPTS, Question, encode
from laps_env.live.recorded_server import RecordedServer
from laps_env.live.server import MARGIN, LiveServer
from laps_env.policies import Policy
from laps_env.sim.costs import CostModel
from laps_env.sim.server_model import ServerModel
from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.workloads import Workload
from laps_env.workloads.requests import RecordedRequests
from laps_env.workloads.scenarios import Scenario, get_scenario


@dataclass(frozen=True)
class Settings:
    """What is served.

    Attributes:
        scenario: Scenario by name; arrivals, batch and pool are taken from it, costs and saturation
            measured.
        acceptance: Judge of the drafts, as of `laps_env.live.env.SpecDecodeLive`.
        prompts: Prompt files; the *test* questions are asked, where acceptance is live.
        num_requests: Requests of the one workload.
        max_new_tokens: Most output tokens of a request, where acceptance is live.
        load: Arrival rate over the replay's saturation under the first calibration.
        policies: Names for `laps_env.policies.make`.
        draft_length: Tokens drafted a round; the scenario's by default.

    Raises:
        ValueError: Unknown scenario or policy, draft length out of range, or policy that needs the
            oracle or chooses the draft length.
    """

    scenario: str = "demo"
    acceptance: Judge = "live"
    prompts: tuple[str, ...] = (DEMO_PROMPTS,)
    num_requests: int = 24
    max_new_tokens: int = 96
    load: float = 0.9
    policies: tuple[str, ...] = ("fcfs", "las", "sprpt", "laps_sd")
    draft_length: int | None = None

    def __post_init__(self) -> None:
        self.server()  # refuses a draft length out of range
        for name, rule in self.rules().items():
            if rule.spec.clairvoyant or rule.draft_length is not None:
                raise ValueError(
                    "policies: expected rules that know no true length and leave the draft length "
                    f"to the server, got {name!r}"
                )

    def rules(self) -> dict[str, Policy]:
        """The policies by name."""
        return {name: policies.make(name, get_scenario(self.scenario)) for name in self.policies}

    def server(self) -> ServerModel:
        """The scenario's server with the draft length in force."""
        server = get_scenario(self.scenario).server
        chosen = server.draft_length if self.draft_length is None else self.draft_length
        return server.with_changes(draft_length=chosen)

    @property
    def slots(self) -> int:
        """Slots of an episode's request table."""
        return max(self.num_requests, self.server().batch_size)

    def workload(self) -> Workload:
        """Requests of the scenario itself, which are served where acceptance is recorded."""
        return get_scenario(self.scenario).workload(
            load=self.load,
            num_requests=self.num_requests,
            split="test",
            seed=TEST_SEEDS.start,
        )


def shared_engine(pair: Pair, settings: Settings, grid: Grid) -> Engine:
    """One engine for the episodes of all policies, which take turns, and the calibration."""
    if settings.acceptance == "recorded":
        workload = settings.workload()
        longest = int((workload.prompt_tokens + workload.output_tokens).max())
    else:
        requests = prompt_requests(pair, settings.prompts, settings.max_new_tokens)
        longest = requests.longest + requests.limit
    return pair.engine(
        slots=max(settings.slots * len(settings.policies), *grid.batches),
        length=max(longest + MARGIN, grid.slot_length),
    )


def record_questions(
    pair: Pair, questions: Sequence[Question], categories: Sequence[str], limit: int
) -> AcceptanceTrace:
    """The acceptance of each question's first turn at every position, one request per question.

    Args:
        pair: Pair of models, greedy, float32.
        questions: Questions in the trace's order.
        categories: Names of categories, those of the questions among them.
        limit: Most output tokens.

    Returns:
        The trace; ``corrected_positions`` in its provenance counts near-ties of the models.
    """
    longest = max(len(encode(pair.tokenizer, q.turns[:1])) for q in questions)
    recorder = Recorder(pair, limit=limit, longest=longest)
    first_turns = {k: replace(q, turns=q.turns[:1]) for k, q in enumerate(questions)}
    done = dict(recorder.record(first_turns))
    recorded = [done[k][0] for k in first_turns]
    info = TraceInfo(
        drafter=pair.drafter_kind,
        target_model=pair.target_name,
        provenance={"corrected_positions": sum(r.corrected for r in recorded)},
    )
    return assemble(recorded, categories, info, lookup=pair.drafter_kind == "ngram")


def replay_workload(live: Workload, trace: AcceptanceTrace) -> Workload:
    """A live workload with the lengths and the acceptance that were recorded.

    Args:
        live: Live workload; its ``source_index`` says which recorded request each one is.
        trace: Trace of the same prompts, in their order.
    """
    assert live.source_index is not None  # a live server's own
    chosen = trace.select(live.source_index)
    return replace(
        live,
        output_tokens=np.asarray(chosen.output_tokens),
        accepted_length=np.asarray(chosen.accepted_length),
        max_draft=chosen.max_draft,
    )


class Servers:
    """A live server and its replay, for one workload.

    Args:
        pair: Pair of models that both serve.
        settings: Settings of what is served.
        trace: Acceptance of the prompts (`record_questions`); None where acceptance is recorded.
        cost: Cost model of the calibrated clock, and of the saturation that the load is a fraction
            of.
        engine: Engine of all live episodes (`shared_engine`).

    Attributes:
        saturation_rps: Saturation of the replay, requests per second.
        workload: Workload of the live server.
        known: Workload of the replay.
        captures: Passes of a new shape in rounds of the measured clock, which they should not hold.
    """

    def __init__(
        self,
        pair: Pair,
        settings: Settings,
        trace: AcceptanceTrace | None,
        cost: CostModel,
        engine: Engine,
    ) -> None:
        self.rules = settings.rules()
        server = settings.server().with_changes(cost=cost)
        scenario = replace(get_scenario(settings.scenario), server=server)
        if trace is not None:
            requests = RecordedRequests(trace, trace, name="recorded prompts")
            scenario = scenario.with_requests(requests)
        self._scenario = scenario.with_saturation()
        self.saturation_rps = self._scenario.saturation("test")
        self._options: dict[str, Any] = {
            "load": settings.load,
            "num_requests": settings.num_requests,
            "slots": settings.slots,
            "split": "test",
        }
        self._live = {
            policy: self._serving(pair, settings, self._scenario) for policy in settings.policies
        }
        for live in self._live.values():
            live.share(engine)
        self.captures = 0
        options = next(iter(self._live.values())).options
        self.workload = options.workload(TEST_SEEDS.start, episode=0)
        self.known = self.workload if trace is None else replay_workload(self.workload, trace)

    def _serving(self, pair: Pair, settings: Settings, scenario: Scenario) -> LiveServer:
        if settings.acceptance == "recorded":
            return RecordedServer(pair, "measured", scenario=scenario, **self._options)
        requests = prompt_requests(pair, settings.prompts, settings.max_new_tokens)
        return PromptServer(pair, "measured", requests, scenario=scenario, **self._options)

    def play_live(self, policy: str) -> Generator[float, None, Metrics]:
        """An episode under the measured clock: yields each step's seconds, returns the metrics."""
        live = self._live[policy]
        live.clock = "measured"
        for seconds, _ in self._follow(policy, live, self.workload):
            yield seconds
        self.captures += live.captures
        return _metrics(live)

    def play_replay(self, policy: str, cost: CostModel) -> Metrics:
        """The same episode as a cost model predicts it."""
        replayed = self._replay(cost)
        deque(self._follow(policy, replayed, self.known), maxlen=0)
        return _metrics(replayed)

    def check(self, policy: str) -> Exactness:
        """Live and replay under the calibrated clock."""
        live, replayed = self._live[policy], self._replay(self._scenario.server.cost)
        live.clock = "calibrated"
        here = [shown for _, shown in self._follow(policy, live, self.workload)]
        there = [shown for _, shown in self._follow(policy, replayed, self.known)]
        same = sum(all(map(np.array_equal, *pair)) for pair in zip(here, there, strict=False))
        metrics, predicted = _metrics(live), _metrics(replayed)
        realised = live.workload()
        rounds, rounds_apart = compare_rounds(realised, self.known)
        return Exactness(
            policy,
            steps=len(here),
            steps_apart=max(len(here), len(there)) - same,
            rounds=rounds,
            rounds_apart=rounds_apart,
            tokens=int(realised.output_tokens.sum()),
            metrics_apart=sum(metrics[name] != predicted[name] for name in METRICS),
        )

    def _replay(self, cost: CostModel) -> SpecDecodeReplayVectorEnv:
        server = self._scenario.server.with_changes(cost=cost)
        scenario = replace(self._scenario, server=server)
        return SpecDecodeReplayVectorEnv(
            1, scenario=scenario, autoreset_mode=AutoresetMode.DISABLED, **self._options
        )

    def _follow(
        self, policy: str, rows: SpecDecodeReplayVectorEnv, workload: Workload
    ) -> Iterator[tuple[float, list[Any]]]:
        """An episode; per step its seconds and all arrays that it shows."""
        observation, info = rows.reset(seed=0, options={"workload": workload})
        yield 0.0, [*observation.values(), info["action_mask"]]
        state, ended = None, False
        while not ended:
            actions, state = self.rules[policy].predict(observation, state)
            observation, reward, terminated, truncated, info = rows.step(actions)
            ended = bool(terminated[0] or truncated[0])
            told = [info[name] for name in ("dt", "round", "action_mask")]
            yield (
                float(info["dt"][0]),
                [
                    *observation.values(),
                    reward,
                    terminated,
                    truncated,
                    *told,
                ],
            )


def _metrics(rows: SpecDecodeReplayVectorEnv) -> Metrics:
    summary = rows.summary()
    return {name: summary[name] for name in METRICS}
