"""Files of `laps-env calibrate`: a cost model measured on a device.

JSON with a format name and a version, the cost model's ten constants, what was measured where (a
grid of rounds, the steps in a server's log, or the times of requests), and the errors of the fit on
cells of the grid, steps or requests that it had not seen. Reading it needs no torch.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from laps_env.sim.costs import CostModel, Work
from laps_env.utils.documents import read_document, write_document

FORMAT = "laps-env calibration"
VERSION = 1

#: The constants of the cost model, in nanoseconds.
CONSTANTS = tuple(field.name for field in fields(CostModel) if field.name != "source")

_Text = Annotated[str, Meta(min_length=1)]
_Number = Annotated[float, Meta(ge=0)]

_Constants = msgspec.defstruct("_Constants", [(name, _Number) for name in CONSTANTS])
_Counts = msgspec.defstruct("_Counts", [(name, _Number) for name in Work._fields])


class _Device(msgspec.Struct):
    """A device; a log knows its name alone."""

    name: _Text
    type: _Text | UnsetType = UNSET
    cores: _Number | UnsetType = UNSET
    threads: _Number | UnsetType = UNSET


class _Models(msgspec.Struct):
    target: _Text
    draft: _Text


class _Error(msgspec.Struct):
    """Relative error of one term of the cost model on cells that were held out."""

    mean: _Number
    p90: _Number
    samples: _Number


class _Cell(msgspec.Struct):
    """One measurement of the grid."""

    kind: _Text
    batch: _Number
    draft_length: _Number
    context: _Number
    work: _Counts  # type: ignore[valid-type]
    caches_ns: _Number
    draft_ns: _Number
    verify_ns: _Number
    round_ns: _Number
    held_out: bool


#: Bounds of constants in nanoseconds, by their names.
_Intervals = dict[str, tuple[_Number, _Number]]


class _Log(msgspec.Struct):
    """Steps that a server has logged."""

    file: _Text
    steps: Annotated[int, Meta(ge=1)]
    outliers: _Number
    scale: _Number
    total_error: float
    notes: list[_Text]
    intervals: _Intervals | UnsetType = UNSET


class _Requests(msgspec.Struct):
    """Requests of which only the times are known."""

    file: _Text
    requests: Annotated[int, Meta(ge=1)]
    total_error: float
    notes: list[_Text]
    intervals: _Intervals


class _Calibration(msgspec.Struct):
    created: _Text
    device: _Device
    software: dict[str, _Text]
    models: _Models
    dtype: _Text
    cost: _Constants  # type: ignore[valid-type]
    errors: dict[str, _Error]
    grid: Annotated[list[_Cell], Meta(min_length=1)] | None = None
    log: _Log | None = None
    requests: _Requests | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("grid", "log", "requests") if getattr(self, name) is not None]
        if len(given) != 1:
            one = "one of grid, log and requests"
            raise ValueError(f"grid: expected {one}, got {' and '.join(given) or 'none'}")
        if "round" not in self.errors:
            terms = ", ".join(self.errors) or "none"
            raise ValueError(
                f"errors: expected one entry per term, 'round' among them, got {terms}"
            )


def write_calibration(path: Path, document: dict[str, Any]) -> None:
    """Write a calibration in one move, with its format and version put first.

    Args:
        path: File in a folder that exists.
        document: All other members; ``cost`` is a `CostModel`.

    Raises:
        ValueError: Members that JSON cannot hold.
        OSError: The file cannot be written.
    """
    cost = {name: getattr(document["cost"], name) for name in CONSTANTS}
    write_document(path, FORMAT, VERSION, {**document, "cost": cost})


def read_calibration(path: Path) -> CostModel:
    """Read the measured cost model, with its source in words.

    Raises:
        ValueError: A file that is no calibration; the message names the file, the member, what was
            expected and what came.
        OSError: The file cannot be read.
    """
    told = read_document(path, _Calibration, FORMAT, VERSION)
    return CostModel(
        **msgspec.structs.asdict(told.cost),
        source=f"measured on {told.device.name}, {told.created}: {told.models.target} "
        f"with {told.models.draft}, {told.dtype}",
    )
