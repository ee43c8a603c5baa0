"""The step log: what a serving engine did in each step, as it goes on.

JSON lines. The first says which run it is; then there is one for each step of the engine and one
for each request that has left, behind the last step that it was in:

    {"format": "laps-env steps", "version": 1, "engine": "vllm 0.32.0", "target": "big", ...}
    {"step": {"at_s": 12.25, "duration_s": 0.071, "requests": [{"id": "a1", "cached": 120,
     "scheduled": 5, "drafted": 4, "committed": 3}]}}
    {"request": {"id": "a1", "arrival_s": 10.0, "finish_s": 14.2, "prompt_tokens": 60,
     "output_tokens": 31, "predicted_tokens": 30.0, "category": "chat", "reason": "stop"}}

A server that starts again goes on with the file, under a header of its own: ids of the requests
before it are those of another server. `laps_env.traces.importers.steps` reads the file.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

FORMAT = "laps-env steps"
VERSION = 1

#: Latest time in seconds; int64 nanoseconds hold little more.
LATEST_S = 9e9

#: Most tokens drafted for a request in a step; with one more a trace's uint8 still holds them.
MOST_DRAFTED = 254

_Text = Annotated[str, Meta(min_length=1)]
_Seconds = Annotated[float, Meta(ge=0, le=LATEST_S)]
_Count = Annotated[int, Meta(ge=0, le=2**31)]
_Some = Annotated[int, Meta(ge=1, le=2**31)]


class RunHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a step log is a log of.

    Attributes:
        engine: Serving engine and its version.
        target: Name of the target model.
        drafter: Speculative method as vLLM names it: "draft_model", "ngram", "eagle", ...; empty
            without speculation.
        draft: Name of the draft model; empty where there is none.
        device: Name of the processor or accelerator.
        dtype: Precision of the target.
        batch_size: Most requests in a step, >= 1.
        draft_length: Most tokens drafted for a request in a step, 0 .. 254.
    """

    engine: _Text
    target: _Text
    drafter: str
    draft: str
    device: _Text
    dtype: _Text
    batch_size: _Some
    draft_length: Annotated[int, Meta(ge=0, le=MOST_DRAFTED)]


class StepShare(msgspec.Struct):
    """One request's part of a step.

    Attributes:
        id: Name of the request, that of no other.
        cached: Tokens whose key-values were there before the step.
        scheduled: Tokens given to the target: a part of the prompt, or 1 + drafted.
        drafted: Draft tokens among these, 0 .. 254.
        committed: Output tokens that came, up to the output's end, 0 .. drafted + 1; 0 while the
            prompt is not done.
    """

    id: _Text
    cached: _Count
    scheduled: _Some
    drafted: Annotated[int, Meta(ge=0, le=MOST_DRAFTED)]
    committed: _Count


class EngineStep(msgspec.Struct):
    """One step of the engine.

    Attributes:
        at_s: Begin on the server's clock, seconds.
        duration_s: Duration, seconds.
        requests: Requests that were in it.
    """

    at_s: _Seconds
    duration_s: _Seconds
    requests: list[StepShare]


class LeftRequest(msgspec.Struct):
    """A request that has left the server.

    Attributes:
        id: Name of the request, as in the steps.
        arrival_s: Arrival on the server's clock, seconds.
        finish_s: End, seconds.
        prompt_tokens: Prompt length, >= 1.
        output_tokens: Output length; 0 only where it was aborted.
        predicted_tokens: Output length as predicted at arrival, > 0; None without a prediction.
        category: Name of its category; empty without one.
        reason: Reason of the end: it was complete, as long as it may be, or aborted.
    """

    id: _Text
    arrival_s: _Seconds
    finish_s: _Seconds
    prompt_tokens: _Some
    output_tokens: _Count
    predicted_tokens: Annotated[float, Meta(gt=0, le=1e15)] | None
    category: str
    reason: Literal["stop", "length", "abort"]


class StepLogWriter:
    """A step log that grows; each line is in the file when its call returns.

    Args:
        path: File, begun or gone on with; half a line at its end, which a killed server leaves, is
            dropped.
        header: What it is a log of.

    Raises:
        ValueError: The file is something else, or a log of another run.
        OSError: The file cannot be read or written.
    """

    def __init__(self, path: Path, header: RunHeader) -> None:
        first = {"format": FORMAT, "version": VERSION, **msgspec.structs.asdict(header)}
        size = _whole_lines(path, _encoded(first)) if path.exists() else 0
        self._file = path.open("ab", buffering=0)
        self._file.truncate(size)
        self._file.write(_encoded(first))

    def add_step(self, step: EngineStep) -> None:
        """Write a step."""
        self._file.write(_encoded({"step": step}))

    def add_request(self, request: LeftRequest) -> None:
        """Write a request that has left, behind its last step."""
        self._file.write(_encoded({"request": request}))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> StepLogWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _encoded(line: dict[str, object]) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _whole_lines(path: Path, header: bytes) -> int:
    """Bytes up to the end of the last whole line of a file that begins with this header."""
    with path.open("rb") as file:
        first = file.readline()
        if not header.startswith(first):  # a part of it, or nothing, may be there
            raise ValueError(
                f"{path}: expected a step log of {header.decode().strip()}, got a file that begins "
                f"with {first[:400].decode(errors='replace').strip()}"
            )
        return sum(len(line) for line in (first, *file) if line.endswith(b"\n"))
