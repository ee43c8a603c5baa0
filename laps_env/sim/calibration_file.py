"""The file that `laps-env calibrate` writes: a cost model measured on a device.

JSON with a format name and a version, the cost model's ten constants, what was measured where,
and the errors of the fit on cells of the grid that it had not seen. Reading it needs no torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from laps_env.sim.costs import Work
from laps_env.sim.server_model import CostModel
from laps_env.utils.checks import is_finite
from laps_env.utils.files import read_json, write_beside

FORMAT = "laps-env calibration"
VERSION = 1

#: The constants of the cost model, in nanoseconds.
CONSTANTS = tuple(field.name for field in fields(CostModel) if field.name != "source")

#: Texts that say what was measured.
_TEXTS = (
    "created",
    "device.type",
    "device.name",
    "software.python",
    "software.torch",
    "software.transformers",
    "software.laps_env",
    "models.target",
    "models.draft",
    "dtype",
)

#: Numbers of every measured row of the grid.
_ROW = (
    "batch",
    "draft_length",
    "context",
    "caches_ns",
    "draft_ns",
    "verify_ns",
    "round_ns",
    *(f"work.{name}" for name in Work._fields),
)


def write_calibration(path: Path, document: dict[str, Any]) -> None:
    """Write a calibration in one move, with its format and version put first.

    Args:
        path: in a folder that exists.
        document: all other fields; ``cost`` is a `CostModel`.
    """
    cost = asdict(document["cost"])
    del cost["source"]  # the file says it in its own fields
    whole = {"format": FORMAT, "version": VERSION, **document, "cost": cost}
    write_beside(path, [(json.dumps(whole, indent=1, allow_nan=False) + "\n").encode()])


def read_calibration(path: Path) -> CostModel:
    """The measured cost model, with its source in words.

    Raises:
        ValueError: naming the file, the field, what was expected and what came.
        OSError: the file cannot be read.
    """
    return read_json(path, _cost_model)


def _cost_model(document: Any) -> CostModel:
    for name, value in (("format", FORMAT), ("version", VERSION)):
        found = _field(document, name)
        if type(found) is not type(value) or found != value:
            raise ValueError(f"{name}: expected {value!r}, got {found!r}")
    text = {name: _text(document, name) for name in _TEXTS}
    for count in ("device.cores", "device.threads"):
        _number(document, count)
    _check_errors(document)
    _check_grid(document)
    return CostModel(
        **{name: _number(document, f"cost.{name}") for name in CONSTANTS},
        source=f"measured on {text['device.name']}, {text['created']}: {text['models.target']} "
        f"with {text['models.draft']}, {text['dtype']}",
    )


def _check_errors(document: Any) -> None:
    errors = _field(document, "errors")
    if not isinstance(errors, dict) or "round" not in errors:
        raise ValueError(f"errors: expected one entry per term, 'round' among them, got {errors!r}")
    for term in errors:
        for name in ("mean", "p90", "samples"):
            _number(document, f"errors.{term}.{name}")


def _check_grid(document: Any) -> None:
    grid = _field(document, "grid")
    if not isinstance(grid, list) or not grid:
        raise ValueError(f"grid: expected a list of measured rows, got {grid!r}")
    for k, row in enumerate(grid):
        try:
            _text(row, "kind")
            if not isinstance(_field(row, "held_out"), bool):
                raise ValueError(f"held_out: expected true or false, got {row['held_out']!r}")
            for name in _ROW:
                _number(row, name)
        except ValueError as reason:
            raise ValueError(f"grid[{k}].{reason}") from None


def _field(document: Any, name: str) -> Any:
    """The value under a name, whose dots lead into objects."""
    value = document
    for part in name.split("."):
        if not isinstance(value, dict):
            raise ValueError(f"{name}: expected an object that has it, got {value!r}")
        if part not in value:
            raise ValueError(f"{name}: expected a value, got none")
        value = value[part]
    return value


def _text(document: Any, name: str) -> str:
    value = _field(document, name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: expected a text, got {value!r}")
    return value


def _number(document: Any, name: str) -> float:
    value = _field(document, name)
    if not (is_finite(value) and value >= 0):
        raise ValueError(f"{name}: expected a finite number >= 0, got {value!r}")
    return float(value)
