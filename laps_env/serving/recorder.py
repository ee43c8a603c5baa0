"""The step log of a vLLM server (`laps_env.traces.step_log`)."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import vllm

from laps_env.traces.step_log import (
    EngineStep,
    LeftRequest,
    RunHeader,
    StepLogWriter,
    StepShare,
)

#: Ends of a request by vLLM's words for them.
REASONS: dict[str, Literal["stop", "length", "abort"]] = {
    "stop": "stop",
    "length": "length",
    "repetition": "stop",
    "abort": "abort",
    "error": "abort",
}


def header_of(config: Any, batch_size: int) -> RunHeader:
    """What the log is a log of, from vLLM's configuration."""
    speculation = config.speculative_config
    return RunHeader(
        engine=f"vllm {vllm.__version__}",
        target=Path(config.model_config.model).name,
        drafter=speculation.method if speculation else "",
        draft=Path(speculation.model or "").name if speculation else "",
        device=config.device_config.device_type + " " + (platform.processor() or "unknown"),
        dtype=str(config.model_config.dtype).removeprefix("torch."),
        batch_size=batch_size,
        draft_length=config.num_speculative_tokens,
    )


class Recorder:
    """Writes what a vLLM server does; times are seconds of the scheduler's clock.

    Args:
        path: File to which is appended.
        header: What it is a log of.

    Raises:
        ValueError: The file is something else, or a log of another run.
        OSError: The file cannot be read or written.
    """

    def __init__(self, path: Path, header: RunHeader) -> None:
        self._log = StepLogWriter(path, header)
        self._arrived: dict[str, tuple[int, float | None, str]] = {}
        self._step: tuple[int, int, list[tuple[Any, int, int, int, int]]] | None = None
        self._left: list[LeftRequest] = []

    def arrive(self, request: Any, now: int, predicted: float | None, category: str) -> None:
        """A request has arrived."""
        self._arrived[request.request_id] = now, predicted, category

    def begin_step(
        self, at: int, duration: int, drafted: Mapping[str, int], scheduled: Mapping[str, int],
        requests: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """A step has run, and its tokens are about to be given to its requests.

        Args:
            at: Begin, ns.
            duration: Duration, ns.
            drafted: Tokens drafted for each request that was in it, by id.
            scheduled: Tokens given to the target, by id.
            requests: Requests of the server, by id.
        """
        shares = []
        for request_id, count in drafted.items():
            request, given = requests[request_id], scheduled[request_id]
            cached = request.num_computed_tokens - given
            shares.append((request, cached, given, count, request.num_output_tokens))
        self._step = at, duration, shares

    def end_step(self) -> None:
        """The tokens of the step have been given to its requests."""
        if self._step is None:
            return
        at, duration, shares = self._step
        self._step = None
        parts = [
            StepShare(
                request.request_id, cached, given, drafted, request.num_output_tokens - before
            )
            for request, cached, given, drafted, before in shares
        ]
        self._log.add_step(EngineStep(at * 1e-9, duration * 1e-9, parts))
        for left in self._left:
            self._log.add_request(left)
        self._left.clear()

    def leave(self, request: Any, now: int) -> None:
        """A request has finished or was aborted."""
        arrived, predicted, category = self._arrived.pop(request.request_id)
        left = LeftRequest(
            id=request.request_id,
            arrival_s=arrived * 1e-9,
            finish_s=now * 1e-9,
            prompt_tokens=request.num_prompt_tokens,
            output_tokens=request.num_output_tokens,
            predicted_tokens=predicted,
            category=category,
            reason=REASONS[str(request.get_finished_reason())],
        )
        if self._step is None:
            self._log.add_request(left)
        else:
            self._left.append(left)

    def close(self) -> None:
        """Close the file."""
        self._log.close()
