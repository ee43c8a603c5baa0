"""Acceptance traces on disk: flat arrays in a safetensors file, a JSON document in its metadata.

Reading looks at numbers and JSON alone, so no content can run anything; what is truncated, overlaps
or goes on behind the last array is refused by safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from laps_env.traces.schema import Arrays, TraceError, TraceInfo
from laps_env.utils.arrays import read_arrays
from laps_env.utils.documents import convert_document
from laps_env.utils.files import write_beside

#: Name of the document in the metadata. It is the only entry: safetensors keeps entries in no
#: order, and the same trace shall be the same bytes.
DOCUMENT = "trace"
FORMAT = "laps-env acceptance trace"
VERSION = 2

#: Beginning of files of version 1, which had a container of their own.
_VERSION_1 = b"ATRACE\r\n"


class Header(msgspec.Struct, forbid_unknown_fields=True):
    """Document in a trace file's metadata, beside its format and version."""

    info: TraceInfo
    categories: list[str]


def write_trace_file(
    path: Path, arrays: Arrays, categories: Sequence[str], info: TraceInfo
) -> None:
    """Write arrays and header in one move.

    Raises:
        TraceError: A header that JSON cannot hold.
        OSError: The file cannot be written.
    """
    document = {
        "format": FORMAT,
        "version": VERSION,
        "info": msgspec.structs.asdict(info),
        "categories": list(categories),
    }
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TraceError(f"{path}: header: expected what JSON can hold, got {error}") from None
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_beside(path, [save(whole, {DOCUMENT: text})])


def read_trace_file(path: Path) -> tuple[dict[str, NDArray[Any]], Header]:
    """Read the arrays and the header; whether they fit each other is not checked here.

    Raises:
        TraceError: No safetensors file, or one of another format or version.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(_VERSION_1)) == _VERSION_1:
            raise TraceError(
                f"{path}: version: expected {VERSION}, got 1: record the trace, or import its "
                "source, again"
            )
    try:
        arrays, metadata = read_arrays(path)
    except ValueError as reason:
        raise TraceError(str(reason)) from None
    try:
        document = msgspec.json.decode(metadata.get(DOCUMENT, "{}"))
        return arrays, convert_document(document, Header, FORMAT, VERSION)
    except (msgspec.DecodeError, RecursionError) as error:
        raise TraceError(f"{path}: header: expected JSON, got {error}") from None
    except ValueError as reason:
        raise TraceError(f"{path}: {reason}") from None
