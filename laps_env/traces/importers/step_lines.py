"""The lines of a step log (`laps_env.traces.step_log`), read and checked one by one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict

from laps_env.traces.importers.records import parse_records
from laps_env.traces.importers.unpacked import first_line
from laps_env.traces.step_log import (
    FORMAT,
    VERSION,
    EngineStep,
    LeftRequest,
    RunHeader,
    StepShare,
)
from laps_env.utils.documents import convert, convert_document, shown

Line = RunHeader | EngineStep | LeftRequest


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line behind the header: one of its members."""

    step: EngineStep | None = None
    request: LeftRequest | None = None


@dataclass
class LogLines:
    """Parser of a log's lines, in their order.

    Attributes:
        header: Header of the run, None before the first line.
    """

    header: RunHeader | None = None

    def parse(self, record: dict[str, Any]) -> Line:
        """The line, checked.

        Raises:
            ValueError: Another format, a line before the header, a header of another run, or a
                member that is wrong.
        """
        if self.header is None or "format" in record:
            return self._parse_header(record)
        line = convert(record, _Line)
        if (line.step is None) == (line.request is None):
            raise ValueError(f"expected a member step or request, got {shown(list(record))}")
        if line.request is not None:
            _check_numbers("request", line.request, "arrival_s", "finish_s", "predicted_tokens")
            return line.request
        assert line.step is not None  # one of the two is there
        _check_numbers("step", line.step, "at_s", "duration_s")
        for i, share in enumerate(line.step.requests):
            _check_share(f"step.requests[{i}]", share)
        return line.step

    def _parse_header(self, record: dict[str, Any]) -> RunHeader:
        header = convert_document(record, RunHeader, FORMAT, VERSION)
        for name, value in asdict(self.header or header).items():
            found = getattr(header, name)
            if found != value:
                raise ValueError(f"{name}: expected {value!r} as in the first line, got {found!r}")
        self.header = header
        return header


def _check_numbers(place: str, line: EngineStep | LeftRequest, *names: str) -> None:
    """No number is NaN, which the bounds of a type let pass."""
    for name in names:
        value = getattr(line, name)
        if value != value:
            raise ValueError(f"{place}.{name}: expected a number, got {value}")


def _check_share(place: str, share: StepShare) -> None:
    if share.drafted >= share.scheduled:
        expected = f"{share.drafted + 1} or more with the {share.drafted} drafted ones"
        raise ValueError(f"{place}.scheduled: expected {expected}, got {share.scheduled}")
    if share.committed > share.drafted + 1:
        expected = f"at most drafted + 1 = {share.drafted + 1}"
        raise ValueError(f"{place}.committed: expected {expected}, got {share.committed}")


def read_steps(path: Path) -> tuple[RunHeader, list[EngineStep]]:
    """Read the steps of a log, plain or gzip; a last line that is cut off is left out.

    Raises:
        TraceError: A file or line that is not of the format; the message names the file, the line
            and the member.
        OSError: The file cannot be read.
    """
    lines = LogLines()
    read = list(parse_records(path, lines.parse, on_cut="skip"))
    assert lines.header is not None  # there is a line, and the first is the header
    return lines.header, [line for line in read if isinstance(line, EngineStep)]


def is_step_log(path: Path) -> bool:
    """Whether a file's first line says that it is one.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        return bool(json.loads(first_line(path))["format"] == FORMAT)
    except (KeyError, RecursionError, TypeError, ValueError):
        return False
