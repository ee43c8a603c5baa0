"""`PromptServer`: prompts are answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.live.engine.engine import Generation, RoundResult
from laps_env.live.engine.loading import Pair
from laps_env.live.prompts import read_questions
from laps_env.live.requests import PromptRequests
from laps_env.live.server import MARGIN, Clock, LiveServer
from laps_env.sim.draft_length import POLICY
from laps_env.utils.splits import as_split
from laps_env.workloads import Workload
from laps_env.workloads.length_model import LengthModel
from laps_env.workloads.scenarios import Scenario, get_scenario


class PromptServer(LiveServer):
    """Prompts are answered: how long the texts become and what is accepted comes true on the way.

    So does how far drafts go by their confidences: the engine stops them. To the kernel all are
    certain, and no longer than they became (``max_draft``).

    Args:
        pair, clock: See `LiveServer`.
        requests: Prompts, in place of the scenario's requests.
        scenario: Scenario whose server and arrivals count.
        **options: Other arguments of `LiveServer`.

    Raises:
        ValueError: What `LiveServer` refuses, or drafts by confidences of prompt lookup.
    """

    def __init__(
        self,
        pair: Pair,
        clock: Clock,
        requests: PromptRequests,
        *,
        scenario: str | Scenario,
        **options: Any,
    ) -> None:
        served = replace(get_scenario(scenario), requests=requests)
        super().__init__(pair, clock, scenario=served, **options)
        if self.options.server.needs_confidence and pair.draft is None:
            raise ValueError(
                "draft: expected a drafter with confidences (a model or a head) for the draft "
                f"length {self.options.server.draft_length!r}, got prompt lookup"
            )
        self.requests = requests

    def longest(self, workload: Workload) -> int:
        """Most tokens of a prompt and its answer."""
        return self.requests.longest + self.requests.limit

    def check(self, workload: Workload) -> None:
        """Raise ``ValueError`` for a workload without prompts, or with a draft schedule."""
        if workload.source_index is None or workload.draft_schedule is not None:
            raise ValueError(
                "workload: expected one of this environment's own, with prompts and no draft "
                "schedule, got another"
            )

    def begin(self, workload: Workload) -> list[Generation]:
        """The prompts, each with its limit."""
        assert workload.source_index is not None  # checked
        prompts = self.requests.prompts(as_split(self.options.split))
        asked = zip(workload.source_index, workload.output_tokens, strict=True)
        return [
            self.engine.start(prompts[source].tokens, int(limit), seed=number)
            for number, (source, limit) in enumerate(asked)
        ]

    def thresholds(self, picked: npt.NDArray[np.int32]) -> list[float]:
        """Those that the policy asks for, or the server's own; 0 where there is none."""
        if self.options.server.draft_length == POLICY:
            asked: list[float] = self.simulation.state.slots[0]["threshold"][picked].tolist()
            return asked
        return [float(self.simulation.constants["threshold"])] * len(picked)

    def note(self, index: int, generation: Generation, result: RoundResult) -> None:
        """What was drafted and accepted at the request's position, and the length of its text."""
        state = self.simulation.state
        slot = state.slots[0, index]
        request = state.requests[0, slot["request"]]
        position = request["offset"] + slot["generated"]
        state.accepted_length[0, position] = result.accepted
        state.max_draft[0, position] = result.drafted
        if generation.finished:
            request["output_tokens"] = len(generation.output)

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
            confidence=None if workload.confidence is None else workload.confidence[flat],
        )


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
        context=pair.context - MARGIN,
        length_model=LengthModel.load(),
    )
