"""Acceptance traces on disk: flat arrays in a safetensors file, JSON texts in its metadata.

Reading checks sizes and offsets (safetensors refuses what is truncated or overlaps) and looks at
numbers and JSON alone, so no content can run anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from laps_env.utils.files import write_beside

FORMAT = "laps-env acceptance trace"
VERSION = 2

#: How files of version 1 begin, which had a container of their own.
_VERSION_1 = b"ATRACE\r\n"


class TraceError(ValueError):
    """A trace is not what it should be; the message names the file, the place and the field."""


def write_trace_file(
    path: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write one-dimensional arrays and a header of plain JSON values.

    Raises:
        TraceError: a header that JSON cannot hold.
        OSError: the file cannot be written.
    """
    try:
        texts = {
            name: json.dumps(value, ensure_ascii=False, allow_nan=False)
            for name, value in {"format": FORMAT, "version": VERSION, **header}.items()
        }
    except (TypeError, ValueError) as error:
        raise TraceError(
            f"{path}: header: expected plain finite JSON values, got {error}"
        ) from None
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_beside(path, [save(tensors, texts)])


def read_trace_file(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The header and the arrays of a file.

    Raises:
        TraceError: no safetensors file, or one of another format or version.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(_VERSION_1)) == _VERSION_1:
            raise TraceError(
                f"{path}: expected an acceptance trace of version {VERSION}, got one of version 1: "
                "record it, or import its source, again"
            )
    try:
        with safe_open(path, framework="numpy") as opened:
            header = _parse_header(path, opened.metadata() or {})
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"{path}: expected a safetensors file, got {error}") from None
    return header, arrays


def _parse_header(path: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"the constant {constant}")

    header = {}
    for name, text in texts.items():
        try:
            header[name] = json.loads(text, parse_constant=refuse)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{path}: {name}: expected JSON, got {error}") from None
    for name, expected in (("format", FORMAT), ("version", VERSION)):
        actual = header.pop(name, None)
        if type(actual) is not type(expected) or actual != expected:
            raise TraceError(f"{path}: {name}: expected {expected!r}, got {actual!r}")
    return header
