"""Timelines: an episode of any of the environments written down round by round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

import laps_env
from laps_env import policies
from laps_env.evaluation.episodes import play
from laps_env.evaluation.replay import parts_of
from laps_env.evaluation.results import Results, Row
from laps_env.policies import Policy
from laps_env.sim.state import FREE
from laps_env.workloads.predictors import PredictorError
from laps_env.workloads.scenarios import Scenario, get_scenario


@dataclass(frozen=True)
class Turn:
    """What a round did for one request.

    Attributes:
        request: Arrival number of the request.
        drafted, accepted: Tokens drafted and accepted.
        committed: Tokens of the output.
        computed: Context tokens whose cache was computed, 0 where it was there.
        moved: Context tokens whose cache came back from the host.
    """

    request: int
    drafted: int
    accepted: int
    committed: int
    computed: int
    moved: int


@dataclass(frozen=True)
class Round:
    """A round of the server.

    Attributes:
        start_ns, duration_ns: Start and duration of the whole; what drafting and verification leave
            of it went into prefill and moves of caches, which come first.
        draft_ns, verify_ns: Times of drafting and verification as a scheduler measures them.
        in_system: Requests that had arrived and were not finished when it began.
        cached_tokens: Tokens in the key-value pool when it ended.
        turns: Turns of the requests in it.
        evicted: Requests whose cache left the device for it.
    """

    start_ns: int
    duration_ns: int
    draft_ns: int
    verify_ns: int
    in_system: int
    cached_tokens: int
    turns: tuple[Turn, ...]
    evicted: tuple[int, ...]

    @property
    def end_ns(self) -> int:
        """When it ended."""
        return self.start_ns + self.duration_ns


@dataclass
class Timeline:
    """An episode.

    Attributes:
        title: Name of the policy.
        categories: Names of the categories.
        requests: `laps_env.sim.state.REQUEST` records [R], as they are when the episode ends.
        rounds: Rounds in order.
    """

    title: str
    categories: tuple[str, ...]
    requests: npt.NDArray[Any]
    rounds: list[Round] = field(default_factory=list)

    @property
    def end_ns(self) -> int:
        """When the last round ended; 0 without one."""
        return self.rounds[-1].end_ns if self.rounds else 0


class TimelineRecorder(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the `Timeline` of the latest episode; the environment behaves as without it.

    Args:
        env: Environment of this package, replayed or live.
        title: Name of the policy, for those who look at the timeline.

    Attributes:
        timeline: Timeline of the episode, complete once it has ended; None before the first reset.
    """

    def __init__(self, env: gym.Env[Any, Any], title: str) -> None:
        super().__init__(env)
        self._title = title
        self.timeline: Timeline | None = None

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode and its timeline."""
        result = self.env.reset(**options)
        env: Any = self.env.unwrapped
        self.timeline = Timeline(
            self._title,
            env.workload().categories,
            env.simulation.requests().copy(),
        )
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the step; a round that it ran is written down."""
        env: Any = self.env.unwrapped
        state = env.simulation.state
        slots, server = state.slots[0].copy(), state.servers[0].copy()
        contexts = state.hot["context"][0].copy()
        result = self.env.step(action)
        info = result[-1]
        if info["round"]:
            assert self.timeline is not None  # a step needs a reset
            requests = env.simulation.requests()
            self.timeline.requests = requests.copy()
            self.timeline.rounds.append(_round(slots, contexts, server, state, requests))
        return result


def _round(slots: Any, contexts: Any, server: Any, state: Any, requests: Any) -> Round:
    """The round between copies of slots, contexts and server before it, and the state after it."""
    now = state.servers[0]
    after = {int(slot["request"]): slot for slot in state.slots[0] if slot["request"] != FREE}
    turns, evicted = [], []
    for slot, context in zip(slots, contexts, strict=True):
        number = int(slot["request"])
        if number == FREE:
            continue
        left = after.get(number)
        if left is not None and not left["ran"]:
            if slot["resident"] and not left["resident"]:
                evicted.append(number)
            continue
        request = requests[number]
        totals = request if left is None else left
        committed = request["output_tokens"] if left is None else left["generated"]
        restored = 0 if slot["resident"] else int(context)
        turns.append(
            Turn(
                number,
                int(totals["drafted"] - slot["drafted"]),
                int(totals["accepted"] - slot["accepted"]),
                int(committed - slot["generated"]),
                computed=0 if slot["swapped"] else restored,
                moved=restored if slot["swapped"] else 0,
            )
        )
    steps = max((turn.drafted for turn in turns), default=0)  # no more than it could propose
    return Round(
        start_ns=int(server["now"]),
        duration_ns=int(now["busy_ns"] - server["busy_ns"]),
        draft_ns=round(now["draft_step_ns"] * steps),
        verify_ns=round(now["verify_ns"]),
        in_system=int(server["arrived"] - server["finished"]),
        cached_tokens=int(now["held"]),
        turns=tuple(turns),
        evicted=tuple(evicted),
    )


#: Entries of a results row that are options of the environment.
_CONDITIONS = ("load", "num_requests", "predictor_error", "split", "slots")


def record_policy(
    policy: str | Policy,
    seed: int,
    *,
    scenario: str | Scenario,
    predictor_error: PredictorError = None,
    **options: Any,
) -> Timeline:
    """The timeline of a policy on the workload of a seed.

    Args:
        policy: Policy, or a name for `laps_env.policies.make`.
        seed: Seed of the workload.
        scenario: Scenario, or its name.
        predictor_error: Error that the policy knows and the workload has, as in an evaluation.
        **options: Other options of `laps_env.envs.replay.SpecDecodeReplay`.

    Raises:
        ValueError: An unknown policy or an option out of range.
    """
    scenario = get_scenario(scenario)
    if isinstance(policy, str):
        policy = policies.make(policy, scenario, predictor_error=predictor_error)
    env = gym.make(
        laps_env.REPLAY_IDS[0],
        scenario=scenario,
        predictor_error=predictor_error,
        draft_length=policy.draft_length,
        **options,
    )
    recorder = TimelineRecorder(env, policy.name)
    play(policy, recorder, options={"workload_seed": seed})
    assert recorder.timeline is not None  # it was reset
    return recorder.timeline


def record_row(results: Results, row: Row, episode: int) -> Timeline:
    """The timeline of one workload of a results row, bit for bit what was evaluated.

    Args:
        results: Content of a results file.
        row: One of its rows.
        episode: Index into the row's ``seeds``.

    Raises:
        ValueError: A row that cannot be run again, as `laps_env.evaluation.replay.parts_of` says.
    """
    policy, _, scenario = parts_of(results, row, episode)
    options = {name: getattr(row, name) for name in _CONDITIONS}
    return record_policy(policy, row.seeds[episode], scenario=scenario, **options)


def waiting_spans(timeline: Timeline) -> list[list[tuple[int, int, bool]]]:
    """When each request had to wait: (start, end, whether it had been served before), in ns.

    What is unfinished where an episode was cut waits until then.
    """
    spans: list[list[tuple[int, int, bool]]] = [[] for _ in timeline.requests]
    since = timeline.requests["arrival_ns"].tolist()
    served = np.zeros(len(since), np.bool_)
    for played in timeline.rounds:
        for turn in played.turns:
            number = turn.request
            if played.start_ns > since[number]:
                spans[number].append((since[number], played.start_ns, bool(served[number])))
            since[number] = played.end_ns
            served[number] = True
    for number in np.flatnonzero(timeline.requests["completion_ns"] == 0).tolist():
        if since[number] < timeline.end_ns:
            spans[number].append((since[number], timeline.end_ns, bool(served[number])))
    return spans


def loads(timeline: Timeline) -> list[tuple[int, int, int]]:
    """Steps of the server's load: from when on, in ns, how many in the system and in the batch."""
    steps = []
    for played, following in zip(timeline.rounds, [*timeline.rounds[1:], None], strict=True):
        steps.append((played.start_ns, played.in_system, len(played.turns)))
        if following is None or following.start_ns > played.end_ns:
            steps.append((played.end_ns, 0 if following else _unfinished(timeline), 0))
    changed = [k for k, step in enumerate(steps) if k == 0 or step[1:] != steps[k - 1][1:]]
    return [steps[k] for k in changed]


def _unfinished(timeline: Timeline) -> int:
    """Requests in the system when the episode ended, where it was cut."""
    requests = timeline.requests
    arrived = requests["arrival_ns"] <= timeline.end_ns
    return int((arrived & (requests["completion_ns"] == 0)).sum())
