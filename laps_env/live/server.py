"""Vector environments of one whose rounds really run: what is behind `laps_env.live.env`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from laps_env.envs.vector import SpecDecodeReplayVectorEnv
from laps_env.live.engine.engine import Engine, Generation, RoundResult
from laps_env.live.engine.loading import Pair
from laps_env.live.engine.verification import Decoding
from laps_env.live.step_log import LiveLog, header_of, shares_of
from laps_env.sim.confidence import confident_of
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH
from laps_env.sim.outside import (
    close_as_measured,
    close_at_cost,
    open_drafts,
    open_for_work,
    open_scores,
    open_sequential,
)
from laps_env.sim.topk import topk_of
from laps_env.traces.step_log import StepShare
from laps_env.workloads import Workload

Clock = Literal["measured", "calibrated"]

#: Tokens that a slot holds beyond a text: a draft may run past its end.
MARGIN = MAX_DRAFT_LENGTH + 1


class LiveServer(SpecDecodeReplayVectorEnv):
    """The table of the replay before real rounds; what is served is for others to say.

    Args:
        pair: Models that serve.
        clock: Clock of the rounds.
        decoding: Choice of tokens.
        step_log: File that gets a step log of the episodes.
        **options: Options of the vector environment.

    Attributes:
        captures: Passes of a new shape in the rounds of this episode (`RoundTimes.captures`).

    Raises:
        ValueError: An option is out of range, or the draft length ``"topk"``.
    """

    def __init__(
        self,
        pair: Pair,
        clock: Clock,
        *,
        decoding: Decoding | None = None,
        step_log: Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(1, autoreset_mode=AutoresetMode.DISABLED, **options)
        given = self.options.server.draft_length
        if topk_of(given) is not None:
            raise ValueError(
                "draft_length: expected a number, a table, 'smartspec', 'sglang', "
                "'rate', 'confidence:T:N' or 'policy' on a live server, which verifies all that it "
                f"drafts, got {given!r}"
            )
        self.pair, self.clock = pair, clock
        self.generations: list[Generation] = []
        self.captures = 0
        self._decoding = decoding
        self._step_log = step_log
        self._log: LiveLog | None = None
        self._engine: Engine | None = None
        self._reset_at = self._moved_at = self._in_rounds_ns = 0

    @property
    def engine(self) -> Engine:
        """The engine; there is one from the first reset on."""
        assert self._engine is not None
        return self._engine

    def share(self, engine: Engine) -> None:
        """Serve from the next reset on with an engine that others use too.

        Args:
            engine: Engine with slots for the requests of all.
        """
        self._engine = engine

    def longest(self, workload: Workload) -> int:
        """Most tokens of a text, prompt and output."""
        return int((workload.prompt_tokens + workload.output_tokens).max())

    def check(self, workload: Workload) -> None:
        """Raise ``ValueError`` for a workload that this server cannot serve."""
        if workload.draft_schedule is not None:
            raise ValueError("workload: expected no draft schedule on a live server, got one")

    def begin(self, workload: Workload) -> list[Generation]:
        """A sequence for each request."""
        raise NotImplementedError

    def thresholds(self, picked: npt.NDArray[np.int32]) -> list[float] | None:
        """Products of confidences below which the engine stops the drafts of picked slots."""
        return None

    def note(self, index: int, generation: Generation, result: RoundResult) -> None:
        """Tell the kernel what a round did for the request in slot ``index``."""

    def _reset_one(self, index: int, options: dict[str, Any] | None = None) -> None:
        super()._reset_one(index, options)
        workload = super().workload(index)
        self.check(workload)
        for generation in self.generations:
            self.engine.drop(generation)
        self.generations = []
        self._make_ready(workload)
        self.generations = self.begin(workload)
        self._begin_log(workload)
        self._in_rounds_ns = self.captures = 0
        self._reset_at = self._moved_at = time.perf_counter_ns()

    def _begin_log(self, workload: Workload) -> None:
        if self._step_log is None:
            return
        if self._log is None:
            most = max(self._draft_lengths(workload))
            header = header_of(self.pair, self.options.server.batch_size, most)
            self._log = LiveLog(self._step_log, header)
        self._log.begin_episode(workload)

    def _make_ready(self, workload: Workload) -> None:
        """An engine whose slots hold the longest text, and no measured round has to wait for."""
        length = self.longest(workload) + MARGIN
        if self._engine is None or self._engine.target.length < length:
            self._engine = None  # its caches leave the device before others are made
            self._engine = self.pair.engine(
                slots=self.options.slots, length=length, decoding=self._decoding
            )
        if self.clock == "measured":
            batches = range(1, self.options.server.batch_size + 1)
            self.engine.warm_up(batches, self._draft_lengths(workload), length - MARGIN)

    def _draft_lengths(self, workload: Workload) -> Sequence[int]:
        """Draft lengths that may come up, those that a workload cuts among them."""
        given = self.options.server.draft_length
        if self.options.interface == "drafts":
            return range(MAX_DRAFT_LENGTH + 1)
        if (rule := confident_of(given)) is not None:
            return range(rule.most + 1)
        if isinstance(given, str):
            return range(MAX_DRAFT_LENGTH + 1)
        if isinstance(given, tuple):
            return range(max(given) + 1)
        cut = workload.max_draft is not None and int(workload.max_draft.min()) < given
        return range(given + 1) if cut else [given]

    def _move(
        self,
        actions: npt.NDArray[Any],
        skip: npt.NDArray[np.bool_],
        queue: npt.NDArray[np.float32],
    ) -> None:
        simulation = self.simulation
        constants, state = simulation.constants, simulation.state
        scale = self.options.reward_scale
        if self.options.interface == "scores":
            starts = open_scores(constants, state, -actions[0].astype(np.float64))
        elif self.options.interface == "drafts":
            pick, draft_length = actions[0].tolist()
            starts = open_drafts(constants, state, pick, draft_length, scale)
        else:
            starts = open_sequential(constants, state, int(actions[0]), scale)
        if starts:
            self._run_round()
        queue[:] = state.queue

    def _run_round(self) -> None:
        """The engine does the work of an opened round."""
        simulation = self.simulation
        constants, state = simulation.constants, simulation.state
        scale = self.options.reward_scale
        open_for_work(constants, state)
        shares = self._work()
        began, busy = (int(state.servers[0][name]) for name in ("now", "busy_ns"))
        times = self.engine.times
        self._in_rounds_ns += times.total
        self.captures += times.captures
        if self.clock == "calibrated":
            close_at_cost(constants, state, scale)
        else:
            close_as_measured(constants, state, scale, times.total, times.draft, times.verify)
        if self._log is not None:
            self._log.add_round(began, int(state.servers[0]["busy_ns"]) - busy, shares)
            self._log_finished(shares)
        self._moved_at = time.perf_counter_ns()

    def _log_finished(self, shares: list[StepShare]) -> None:
        assert self._log is not None  # it has just got the round
        for number in (int(share.id) for share in shares):
            if self.generations[number].finished:
                request = self.simulation.state.requests[0, number]
                self._log.add_request(number, request, self.generations[number])

    def _work(self) -> list[StepShare]:
        """Run the round for the picked slots; what it did, request by request."""
        state = self.simulation.state
        slots = state.slots[0]
        self._evict(slots)
        picked = state.batch[0, : state.servers[0]["picked"]]
        numbers = slots[picked]["request"].tolist()
        chosen = [self.generations[number] for number in numbers]
        cached = [generation.cached for generation in chosen]
        lengths = slots["drafting"][picked].tolist()
        results = self.engine.run_round(chosen, lengths, self.thresholds(picked))
        for index, generation, result in zip(picked, chosen, results, strict=True):
            self.note(index, generation, result)
        return shares_of(chosen, numbers, cached, results)

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
