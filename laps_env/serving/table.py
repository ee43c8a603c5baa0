"""The request table of an engine that is not ours: it is told what happens, and ranks.

It keeps the records of the simulator's table (`laps_env.sim.state`) and writes the observation's
columns by the simulator's own functions, so a policy sees on an engine what it was made for. It
knows nothing of any engine. Time is the engine's clock, in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.policies import Policy
from laps_env.sim.admission import occupy, release
from laps_env.sim.draft_length import POLICY
from laps_env.sim.loops import Scorer, score_all
from laps_env.sim.observation import (
    ARRIVAL_NUMBER,
    LOAD_WINDOW,
    QUEUE_COLUMNS,
    SELECTABLE,
    SERVER_COLUMNS,
    note_arrivals,
    refresh_times,
    show_eviction,
    show_progress,
    show_round_begin,
    show_server,
    show_service,
)
from laps_env.sim.round import note_service, note_tokens
from laps_env.sim.server_model import CONSTANTS
from laps_env.sim.state import FREE, BatchedState, episode_of, make_state
from laps_env.utils.jit import jit, unchecked
from laps_env.utils.rule_errors import caught

#: Arrivals are numbered anew when this many have come (the observation holds them in float32).
NUMBERS = 2**16

#: Weight of a step in the smoothed duration of a decoding step: single steps of a busy machine
#: last many times as long as the others.
SMOOTHING = 1 / 8

#: What a decoding step is taken to last before one was measured (assumed); rules divide by it.
FIRST_STEP_NS = 5e7

#: A request that has just been served: slot, tokens that came (0: a part of its prompt was
#: computed), tokens that had been drafted.
Served = tuple[int, int, int]


@jit
def enter(
    state: BatchedState, now: int, prompt_tokens: int, predicted: float, category: int
) -> int:
    """A request arrives; returns its slot."""
    server, e = state.servers[0], episode_of(state, 0)
    number = server.arrived
    request = e.requests[number]
    request.arrival_ns = now
    request.prompt_tokens = prompt_tokens
    request.predicted_tokens = predicted
    request.category = category
    occupy(server, e, number)
    server.arrived = server.admitted = number + 1
    note_arrivals(server, e)
    index = e.active[server.active - 1]
    e.queue[index, SELECTABLE] = 1
    return index


@jit
def depart(state: BatchedState, index: int) -> None:
    """The request of a slot has left."""
    release(state.servers[0], episode_of(state, 0), index)


@jit
def lose_cache(state: BatchedState, index: int) -> None:
    """The request of a slot has lost its key-value cache."""
    show_eviction(episode_of(state, 0), index)


@jit
def account(
    state: BatchedState,
    now: int,
    duration: int,
    served: npt.NDArray[np.int64],
    draft_step_ns: float,
    verify_ns: float,
) -> None:
    """A step that served these requests [B, 3] (`Served`) has ended."""
    server, e = state.servers[0], episode_of(state, 0)
    server.now = now
    server.rounds += 1
    server.draft_step_ns, server.verify_ns = draft_step_ns, verify_ns
    for k in range(server.active):
        show_round_begin(e, e.active[k])
    for k in range(served.shape[0]):
        index, tokens, drafted = served[k, 0], served[k, 1], served[k, 2]
        note_service(server, e, index, duration)
        if tokens == 0:
            show_service(e, index)
        else:
            accepted = min(tokens - 1, drafted)
            note_tokens(server, e, index, tokens, drafted, accepted)
            show_progress(e, index, drafted, accepted)


@jit
def score(
    c: Any,
    state: BatchedState,
    now: int,
    free_tokens: int,
    patience: int,
    rule: Any,
    prepare: Any,
    params: npt.NDArray[np.float64],
    server_cells: npt.NDArray[np.float32],
    memory: npt.NDArray[np.float64],
    remaining: npt.NDArray[np.float64],
    priority: npt.NDArray[np.float64],
    raised: npt.NDArray[np.int8],
) -> int:
    """Write each request's priority [N]; returns the slot at which the rule fails, or `FREE`.

    Where it fails, all priorities are alike. A request that was not served for ``patience`` comes
    before all others. The parts of the scorer are arguments of their own, because a function in a
    named tuple takes four times as long to cross into compiled code.
    """
    scorer = Scorer(rule, prepare, params, server_cells, memory, remaining, priority, raised, False)
    server, e = state.servers[0], episode_of(state, 0)
    columns = state.server_obs[0]
    server.now = now
    server.held = c.pool_tokens - free_tokens
    refresh_times(server, e)
    show_server(c, server, e, columns)
    failed = score_all(server, e, columns, scorer)
    for k in range(server.active):
        index = e.active[k]
        if now - e.hot[index].served_at >= patience:
            priority[index] = -np.inf
        elif failed != FREE:
            priority[index] = 0.0
    return failed


class Table:
    """Requests of one engine in slots, as many as there are, and a policy that ranks them.

    Args:
        policy: Policy; neither clairvoyant nor made for a number of slots.
        batch_size: Most requests in a step.
        draft_length: Tokens that the engine drafts for a request in a step, 0 = none.
        pool_tokens: Capacity of the key-value cache in tokens.
        saturation_rps: Saturation throughput in requests per second, for the load estimate; with
            infinity, where it is not known, the estimate is 0.
        draft_share: Share of a decoding step's duration that its draft steps take, 0 .. 1.
        patience_s: Time without service after which a request goes before all others, in seconds.
        window: Rounds in the windowed acceptance statistics.
        slots: Slots at first.
        numbers: Arrivals after which they are numbered anew, more than twice the slots.

    Attributes:
        failures: Number of times that the policy failed, and the requests came by arrival.
        last_failure: What it said last.

    Raises:
        ValueError: A policy that cannot rank here.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        batch_size: int,
        draft_length: int,
        pool_tokens: int,
        saturation_rps: float = np.inf,
        draft_share: float = 0.0,
        patience_s: float = np.inf,
        window: int = 10,
        slots: int = 64,
        numbers: int = NUMBERS,
    ) -> None:
        _check(policy)
        self.policy = policy
        self.failures = 0
        self.last_failure: ValueError | None = None
        self._draft_length = draft_length
        self._draft_share = draft_share if draft_length else 0.0
        self._patience_ns = int(min(patience_s * 1e9, 2**62))
        self._step_ns, self._measured = FIRST_STEP_NS, False
        constants = np.zeros((), CONSTANTS)
        constants["batch_size"], constants["pool_tokens"] = batch_size, pool_tokens
        self._constants = constants[()]
        self._state = _empty(slots, window, numbers)
        server = self._state.servers[0]
        server["saturation_rps"], server["last_draft_length"] = saturation_rps, draft_length
        self._scorer = policy.scorer(slots)
        self._score = unchecked(score, self._constants, self._state, 0, 0, 0, *self._arrays())
        nobody = np.zeros((0, 3), np.int64)
        self._account = unchecked(account, self._state, 0, 0, nobody, *self._shares())
        self._account(self._state, 0, 0, nobody, *self._shares())  # how long steps are taken to be

    @property
    def requests(self) -> int:
        """Number of requests in the table."""
        return int(self._state.servers["active"][0])

    @property
    def observation(self) -> dict[str, npt.NDArray[np.float32]]:
        """Observation of the last ranking: ``queue`` [N, F] and ``server`` [G], as they are."""
        return {"queue": self._state.queue[0], "server": self._state.server_obs[0]}

    def arrive(self, now: int, prompt_tokens: int, predicted_tokens: float, category: int) -> int:
        """A request arrives; returns its slot, which it keeps until it leaves.

        Args:
            now: Time, ns.
            prompt_tokens: Length of the prompt.
            predicted_tokens: Predicted output length, > 0.
            category: Index of its category.
        """
        state = self._state
        if self.requests == state.slots.shape[1]:
            self._grow()
        if state.servers["arrived"][0] == state.requests.shape[1]:
            self._number_anew()
        return enter(self._state, now, prompt_tokens, predicted_tokens, category)

    def leave(self, slot: int) -> None:
        """The request of a slot has finished, or was aborted."""
        depart(self._state, slot)

    def evict(self, slot: int) -> None:
        """The request of a slot has lost its key-value cache."""
        lose_cache(self._state, slot)

    def end_step(
        self, now: int, duration: int, served: Sequence[Served], *, decoding: bool
    ) -> None:
        """A step has ended.

        Args:
            now: Time, ns.
            duration: Duration of the step, ns.
            served: Requests that were in it.
            decoding: Whether none of it was the computation of a prompt; only then its duration is
                taken for that of a round.
        """
        if decoding:
            weight = SMOOTHING if self._measured else 1.0
            self._step_ns += weight * (duration - self._step_ns)
            self._measured = True
        self._account(
            self._state, now, duration, np.array(served, np.int64).reshape(-1, 3), *self._shares()
        )

    def _arrays(self) -> tuple[Any, ...]:
        """Parts of the scorer that `score` takes: what a rule asks for drafts is nobody's here."""
        return self._scorer[:-1]

    def _shares(self) -> tuple[float, float]:
        """Duration of a draft step and of the verification, ns."""
        drafting = self._draft_share * self._step_ns
        return drafting / max(self._draft_length, 1), self._step_ns - drafting

    def rank(self, now: int, free_tokens: int) -> list[int]:
        """Slots of all requests, best first; by arrival where the policy fails.

        Args:
            now: Time, ns.
            free_tokens: Room in the key-value cache.
        """
        state, scorer = self._state, self._scorer
        with caught(scorer.raised) as errors:
            failed = self._score(
                self._constants, state, now, free_tokens, self._patience_ns, *self._arrays()
            )
        if failed != FREE:
            self.failures += 1
            self.last_failure = self.policy.failure(state.queue[0, failed], errors)
        active = state.active[0, : self.requests]
        order: list[int] = active[np.argsort(scorer.priority[active], kind="stable")].tolist()
        return order

    def _grow(self) -> None:
        """Twice the slots; everything stays where it is."""
        old, slots = self._state, 2 * self._state.slots.shape[1]
        numbers = max(old.requests.shape[1], 4 * slots)
        self._state = _empty(slots, old.window.shape[2], numbers)
        arrays: list[tuple[Any, Any]] = list(zip(old, self._state, strict=True))
        for before, after in arrays:
            after[tuple(slice(size) for size in before.shape)] = before
        before, self._scorer = self._scorer, self.policy.scorer(slots)
        self._scorer.memory[: len(before.memory)] = before.memory
        self._scorer.server[: before.server.size] = before.server

    def _number_anew(self) -> None:
        """Forget requests that have left, but for the latest arrivals; the order stays."""
        state, memory = self._state, self._scorer.memory
        living = state.active[0, : self.requests]
        numbers = state.slots["request"][0, living]
        arrived = int(state.servers["arrived"][0])
        kept = np.union1d(numbers, np.arange(max(arrived - LOAD_WINDOW - 1, 0), arrived))
        state.requests[0, : kept.size] = state.requests[0, kept]
        renumbered = np.searchsorted(kept, numbers)
        owned = memory[living, 0] == numbers + 1
        memory[:, 0] = 0
        memory[living, 0] = np.where(owned, renumbered + 1, 0)
        state.slots["request"][0, living] = renumbered
        state.queue[0, living, ARRIVAL_NUMBER] = renumbered
        state.servers["arrived"] = state.servers["admitted"] = kept.size


def compile_ahead(policy: Policy) -> None:
    """Compile what a table calls, which takes seconds, before the first request comes."""
    table = Table(policy, batch_size=1, draft_length=1, pool_tokens=1)
    slot = table.arrive(0, 1, 1.0, 0)
    table.rank(0, 1)
    table.end_step(1, 1, [(slot, 0, 0)], decoding=True)
    table.evict(slot)
    table.leave(slot)


def _check(policy: Policy) -> None:
    """Raise where a policy needs what no engine can give."""
    spec = policy.spec
    if spec.clairvoyant:
        raise ValueError(f"policy: expected one that knows no true length, got {policy.name}")
    if spec.slots is not None:
        raise ValueError(
            f"policy: expected one for any number of requests, got {policy.name} for {spec.slots}"
        )
    if policy.draft_length not in (None, POLICY):
        raise ValueError(
            f"policy: expected one that leaves the draft length to the engine, got {policy.name}"
        )


def _empty(slots: int, window: int, numbers: int) -> BatchedState:
    state = make_state(1, slots, window, len(QUEUE_COLUMNS), len(SERVER_COLUMNS))
    return state._replace(requests=np.zeros((1, numbers), state.requests.dtype))
