"""Requests of which somebody has the times: a table, JSON lines, or a result of vLLM's benchmark.

A line has ``prompt`` and ``output`` (tokens) and ``seconds`` (to the last token, from the start of
service or from the arrival), and where they are known ``ttft_s`` (seconds to the first token),
``rounds`` (passes of the target that made the output, without it one a token) and ``concurrency``
(requests served at once, the request among them). A ``.json`` file is what
``vllm bench serve --save-result --save-detailed`` writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from laps_env.live.measure.rows import Columns, Count, Seconds, read_rows
from laps_env.traces.schema import TraceError
from laps_env.utils.documents import convert

_NEEDED: Columns = {"prompt": Count(1), "output": Count(1), "seconds": Seconds()}
_OPTIONAL: Columns = {"ttft_s": Seconds(), "rounds": Count(1), "concurrency": Count(1)}


class RequestTimes(NamedTuple):
    """One request.

    Attributes:
        prompt: Prompt length, tokens.
        rounds: Passes of the target that made its output, >= 1.
        seconds: Time to the last token.
        ttft_s: Time to the first token; None where it is not known.
        concurrency: Requests served at once, itself among them; None where it is not known.
    """

    prompt: int
    rounds: int
    seconds: float
    ttft_s: float | None
    concurrency: float | None


def read_request_times(path: Path) -> list[RequestTimes]:
    """The requests of a file (see the module); of a benchmark those that failed are left out.

    Raises:
        TraceError: A file or line that is of none of the kinds; the message names the file, the
            line and the column.
        OSError: The file cannot be read.
    """
    if path.suffix == ".json":
        return _read_benchmark(path)
    return read_rows(path, _NEEDED, _OPTIONAL, _request)


def _request(row: dict[str, Any]) -> RequestTimes:
    rounds, ttft_s = row.get("rounds", row["output"]), row.get("ttft_s")
    if rounds > row["output"]:
        raise ValueError(f"rounds: expected at most the {row['output']} of output, got {rounds}")
    if ttft_s is not None:
        _check_order("seconds", row["seconds"], ttft_s, rounds)
    return RequestTimes(row["prompt"], rounds, row["seconds"], ttft_s, row.get("concurrency"))


def _check_order(name: str, seconds: float, ttft_s: float, rounds: int) -> None:
    if seconds < ttft_s or (rounds > 1 and seconds == ttft_s):
        raise ValueError(f"{name}: expected more than ttft_s, {ttft_s}, got {seconds}")


_Length = Annotated[int, Meta(ge=0, le=2**24)]
_Time = Annotated[float, Meta(ge=0, le=1e9)]


class _Benchmark(msgspec.Struct):
    """What is read of a benchmark's result; a request that failed has no output."""

    input_lens: list[_Length]
    output_lens: list[_Length]
    ttfts: list[_Time]
    itls: list[list[_Time]]
    max_concurrency: Annotated[int, Meta(ge=1, le=2**24)] | None = None

    def __post_init__(self) -> None:
        for name in ("output_lens", "ttfts", "itls"):
            if (count := len(getattr(self, name))) != len(self.input_lens):
                expected = f"{len(self.input_lens)} values as of input_lens"
                raise ValueError(f"{name}: expected {expected}, got {count}")


def _read_benchmark(path: Path) -> list[RequestTimes]:
    try:
        result = convert(msgspec.json.decode(path.read_bytes()), _Benchmark)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TraceError(f"{path}: expected JSON, got {error}") from None
    except ValueError as reason:
        raise TraceError(f"{path}: {reason}") from None
    requests = zip(result.input_lens, result.output_lens, result.ttfts, result.itls, strict=True)
    return [
        RequestTimes(prompt, len(gaps) + 1, ttft_s + sum(gaps), ttft_s, result.max_concurrency)
        for prompt, output, ttft_s, gaps in requests
        if output and prompt and ttft_s > 0 and (not gaps or sum(gaps) > 0)
    ]
