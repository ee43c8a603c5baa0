r"""The `.atrace` container: a JSON header and a few flat arrays in one file, memory-mappable.

Byte layout (all numbers little-endian; see docs/traces.md)::

    0   8 bytes   magic b"ATRACE\r\n"
    8   8 bytes   uint64, length H of the header in bytes
    16  H bytes   header, a UTF-8 JSON object
    ..  zero bytes up to the next multiple of 64: the start of the data
    ..  the arrays, each at a multiple of 64 bytes from the start of the data

The file is data and nothing else: reading it parses JSON and looks at numbers, so no content can
run anything. Everything the header claims is checked against the file before an array is made.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laps_env.utils.files import write_beside

MAGIC = b"ATRACE\r\n"  # the line ending shows a file damaged by a text-mode copy
FORMAT = "laps-env acceptance trace"
VERSION = 1
ALIGNMENT = 64
MAX_HEADER_BYTES = 1 << 20
DTYPES: dict[str, np.dtype[Any]] = {
    "uint8": np.dtype("u1"),
    "int64": np.dtype("<i8"),
    "float64": np.dtype("<f8"),
}
_PREFIX_BYTES = len(MAGIC) + 8


class TraceError(ValueError):
    """A trace is not what it should be; the message names the file, the place and the field."""


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def write_trace_file(
    path: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write `arrays` (one-dimensional, of the types in `DTYPES`) and `header` to `path`."""
    entries: dict[str, dict[str, Any]] = {}
    chunks: list[bytes] = []
    position = 0
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array, dtype=DTYPES[array.dtype.name]).tobytes()
        entries[name] = {"dtype": array.dtype.name, "length": array.size, "offset": position}
        padding = _aligned(position + len(raw)) - position - len(raw)
        chunks += [raw, bytes(padding)]
        position += len(raw) + padding
    chunks.pop()  # nothing follows the last array: the file ends with its last byte
    text = {"format": FORMAT, "version": VERSION, **header, "arrays": entries}
    try:
        head = json.dumps(text, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TraceError(
            f"{path}: header: expected plain finite JSON values, got {error}"
        ) from None
    if len(head) > MAX_HEADER_BYTES:
        raise TraceError(
            f"{path}: header: expected at most {MAX_HEADER_BYTES} bytes, got {len(head)}"
        )
    start = _PREFIX_BYTES + len(head)
    prefix = MAGIC + len(head).to_bytes(8, "little") + head + bytes(_aligned(start) - start)
    write_beside(path, [prefix, *chunks])


def read_trace_file(path: Path, *, mmap: bool) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the header and the arrays (read-only; views of the mapped file with `mmap`).

    Raises `TraceError` for a wrong magic, version or type, for a header that is too long or no
    JSON object, and for arrays that overlap, leave the file, or do not fill it to its last byte.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(_PREFIX_BYTES)
        if prefix[: len(MAGIC)] != MAGIC:
            raise TraceError(
                f"{path}: magic: expected {MAGIC!r}, got {prefix[: len(MAGIC)]!r}"
                " (not an acceptance trace)"
            )
        length = int.from_bytes(prefix[len(MAGIC) :], "little")
        if (
            len(prefix) < _PREFIX_BYTES
            or length > MAX_HEADER_BYTES
            or _PREFIX_BYTES + length > size
        ):
            raise TraceError(
                f"{path}: header: expected at most {min(MAX_HEADER_BYTES, size)} bytes"
                f" in a file of {size}, got a length of {length} (truncated?)"
            )
        header = _parse_header(path, file.read(length))
    start = _aligned(_PREFIX_BYTES + length)
    places = _places(path, header.pop("arrays"), size - start)
    raw: NDArray[np.uint8]
    if mmap:
        raw = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    else:
        raw = np.fromfile(path, dtype=np.uint8)
        raw.flags.writeable = False
    arrays = {
        name: raw[start + first : start + last].view(dtype)
        for name, (dtype, first, last) in places.items()
    }
    return header, arrays


def _parse_header(path: Path, raw: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"the constant {constant}")

    try:
        header = json.loads(raw.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: header: expected a JSON object, got {error}") from None
    if not isinstance(header, dict):
        raise TraceError(f"{path}: header: expected a JSON object, got {type(header).__name__}")
    for key, expected in (("format", FORMAT), ("version", VERSION)):
        actual = header.pop(key, None)
        if type(actual) is not type(expected) or actual != expected:
            raise TraceError(f"{path}: {key}: expected {expected!r}, got {actual!r}")
    if not isinstance(header.get("arrays"), dict):
        raise TraceError(f"{path}: arrays: expected an object, got {header.get('arrays')!r}")
    return header


def _places(
    path: Path, entries: dict[str, Any], size: int
) -> dict[str, tuple[np.dtype[Any], int, int]]:
    """Check the claims about the arrays against the `size` bytes of data that are there."""
    places: dict[str, tuple[np.dtype[Any], int, int]] = {}
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "length", "offset"}:
            raise TraceError(f"{path}: {name}: expected dtype, length and offset, got {entry!r}")
        dtype, length, offset = entry["dtype"], entry["length"], entry["offset"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise TraceError(f"{path}: {name}: expected dtype in {list(DTYPES)}, got {dtype!r}")
        if type(length) is not int or type(offset) is not int or length < 0 or offset < 0:
            raise TraceError(
                f"{path}: {name}: expected length and offset as integers of at least 0,"
                f" got {length!r} and {offset!r}"
            )
        if offset % ALIGNMENT:
            raise TraceError(f"{path}: {name}: expected offset % {ALIGNMENT} == 0, got {offset}")
        end = offset + length * DTYPES[dtype].itemsize
        if end > size:
            raise TraceError(
                f"{path}: {name}: expected {end} bytes of data, got {max(size, 0)} (truncated?)"
            )
        places[name] = (DTYPES[dtype], offset, end)
    position = 0
    for name, (_, first, last) in sorted(places.items(), key=lambda item: item[1][1:]):
        if first < position:
            raise TraceError(
                f"{path}: {name}: expected offset >= {position}, got {first} (overlap)"
            )
        position = last
    if position != max(size, 0):
        raise TraceError(f"{path}: data: expected {position} bytes, got {max(size, 0)}")
    return places
