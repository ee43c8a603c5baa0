"""Arrays in safetensors files: only numbers and texts, so that reading one runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

#: Types of safetensors that NumPy has too; BF16 and the 8-bit floats are not among them.
_NUMPY_TYPES = (
    *("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"),
    *("F16", "F32", "F64"),
)


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read the arrays of a file by name, and its metadata.

    Raises:
        ValueError: Not a whole safetensors file, or an array of a type that NumPy lacks; the
            message names the file.
        OSError: The file cannot be read.
    """
    arrays = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                kind = file.get_slice(name).get_dtype()
                if kind not in _NUMPY_TYPES:
                    raise ValueError(f"{path}: {name}: expected a type of NumPy's, got {kind}")
                arrays[name] = file.get_tensor(name)
            return arrays, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: expected safetensors, got {error}") from None
