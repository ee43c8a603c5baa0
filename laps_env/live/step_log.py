"""The step log of a live server (`laps_env.traces.step_log`): a step for each round.

A prompt is computed in the first round that its request is in, so that share holds the prompt's
tokens and the drafts. Every episode has a header of its own; all are on one clock, each from the
end of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laps_env.live.device import device_name
from laps_env.live.engine.engine import Generation, RoundResult
from laps_env.live.engine.loading import Pair
from laps_env.traces.step_log import (
    EngineStep,
    LeftRequest,
    RunHeader,
    StepLogWriter,
    StepShare,
)
from laps_env.workloads import Workload


def header_of(pair: Pair, batch_size: int, draft_length: int) -> RunHeader:
    """What the log is a log of."""
    import transformers

    return RunHeader(
        engine=f"laps_env on transformers {transformers.__version__}",
        target=Path(pair.target_name).name,
        drafter=pair.drafter_kind.replace("-", "_"),
        draft="" if pair.draft is None else Path(pair.draft_name).name,
        device=device_name(pair.target.device),
        dtype=str(pair.target.dtype).removeprefix("torch."),
        batch_size=batch_size,
        draft_length=draft_length,
    )


def shares_of(
    chosen: Sequence[Generation],
    numbers: Sequence[int],
    cached: Sequence[int],
    results: Sequence[RoundResult],
) -> list[StepShare]:
    """What a round did.

    Args:
        chosen: Sequences of the round, which has run.
        numbers: Numbers of their requests.
        cached: Tokens of each in the target's cache before the round.
        results: Result of each.
    """
    shares = []
    for g, number, held, result in zip(chosen, numbers, cached, results, strict=True):
        text = len(g.prompt) + len(g.output) - len(result.committed)  # before the round
        fed = text - held + result.drafted
        shares.append(StepShare(str(number), held, fed, result.drafted, len(result.committed)))
    return shares


class LiveLog:
    """Writer of a live server's step log.

    Args:
        path: File that is begun or gone on with.
        header: What it is a log of.

    Raises:
        ValueError: The file is something else, or a log of another run.
        OSError: The file cannot be read or written.
    """

    def __init__(self, path: Path, header: RunHeader) -> None:
        self._path, self._header = path, header
        self._writer: StepLogWriter | None = None
        self._categories: tuple[str, ...] = ()
        self._from_ns = self._end_ns = 0

    def begin_episode(self, workload: Workload) -> None:
        """Write the header of an episode."""
        self.close()
        self._writer = StepLogWriter(self._path, self._header)
        self._categories = workload.categories
        self._from_ns = self._end_ns

    def add_round(self, began_ns: int, duration_ns: int, shares: list[StepShare]) -> None:
        """Write a round that has run.

        Args:
            began_ns: Begin on the episode's clock.
            duration_ns: Duration.
            shares: What it did (`shares_of`).
        """
        self._end_ns = self._from_ns + began_ns + duration_ns
        duration_s = round(duration_ns * 1e-9, 6)
        self._open().add_step(EngineStep(self._seconds(began_ns), duration_s, shares))

    def add_request(self, number: int, request: Any, generation: Generation) -> None:
        """Write a request that is finished, behind its last round.

        Args:
            number: Number of the request.
            request: Record of it in the state.
            generation: Sequence of it.
        """
        left = LeftRequest(
            id=str(number),
            arrival_s=self._seconds(int(request["arrival_ns"])),
            finish_s=self._seconds(int(request["completion_ns"])),
            prompt_tokens=int(request["prompt_tokens"]),
            output_tokens=len(generation.output),
            predicted_tokens=float(request["predicted_tokens"]),
            category=self._categories[int(request["category"])],
            reason="length" if len(generation.output) == generation.limit else "stop",
        )
        self._open().add_request(left)

    def _open(self) -> StepLogWriter:
        assert self._writer is not None  # an episode has begun
        return self._writer

    def _seconds(self, episode_ns: int) -> float:
        """A time of the episode on the log's clock, to the microsecond."""
        return round((self._from_ns + episode_ns) * 1e-9, 6)

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
