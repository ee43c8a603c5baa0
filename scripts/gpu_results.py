"""What a GPU campaign has found out so far: a small file, written anew after every step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from laps_env.utils.documents import read_document, write_document

FORMAT = "laps-env gpu campaign"
VERSION = 1


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        ok: Whether its command succeeded.
        seconds: Seconds that it took; 0 where it was not started.
        date: Time of its end, ISO 8601, UTC.
        error: Reason in words where it is not ok.
    """

    ok: bool
    seconds: float
    date: str
    error: str = ""


@dataclass(frozen=True)
class Campaign:
    """All steps so far, and where they ran.

    Attributes:
        tiny: Whether models of a few thousand weights stood for the real ones: a dry run.
        device: Type, name, cores and threads (`laps_env.live.measure.machine`).
        software: Versions by name.
        steps: Outcomes by step.
    """

    tiny: bool
    device: dict[str, str | int]
    software: dict[str, str]
    steps: dict[str, Outcome] = field(default_factory=dict)


def read(path: Path) -> Campaign:
    """Read the results file.

    Raises:
        ValueError: A file that is no campaign's; the message names it and the member.
        OSError: The file cannot be read.
    """
    return read_document(path, Campaign, FORMAT, VERSION)


def write(path: Path, campaign: Campaign) -> None:
    """Write the results file in one move.

    Raises:
        OSError: The file cannot be written.
    """
    write_document(path, FORMAT, VERSION, asdict(campaign))
