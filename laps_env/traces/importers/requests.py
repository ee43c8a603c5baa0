"""Requests of one run as recorded, whatever a format knows of them, and what they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from laps_env.traces import TraceError, TraceInfo


@dataclass(frozen=True, kw_only=True)
class Recorded(ABC):
    """One generated output.

    Attributes:
        category: Name of its category.
        group: Number of its group in its file, >= 0; groups are never split apart.
        prompt_tokens: Prompt length; 0 = not recorded.
        run: What the record says of its run (models, draft length); all requests of a trace have
            to agree in it.
    """

    category: str
    group: int
    prompt_tokens: int = 0
    run: Mapping[str, str | int] = field(default_factory=dict)

    @property
    @abstractmethod
    def output_tokens(self) -> int:
        """Output length."""


def shared_columns(files: Mapping[Path, Sequence[Recorded]], info: TraceInfo) -> dict[str, Any]:
    """The arguments of an `AcceptanceTrace` that do not depend on what was recorded of rounds.

    Categories of one name are one; groups of different files stay apart.

    Args:
        files: Requests of each file, at least one.
        info: Origin of the run; the names of the files and what the requests say of their run are
            added to its provenance.

    Raises:
        TraceError: No request, or requests of different runs.
    """
    requests = [request for read in files.values() for request in read]
    if not requests:
        raise TraceError(f"{source_of(files)}: expected at least one request, got none")
    names = tuple(sorted({request.category for request in requests}))
    index = {name: i for i, name in enumerate(names)}
    lengths = np.array([request.output_tokens for request in requests], np.int64)
    names_of_files = ", ".join(path.name for path in files)
    origin = {**info.provenance, **_run_of(files), "file": names_of_files}
    return {
        "output_tokens": lengths,
        "offset": offsets(lengths),
        "prompt_tokens": np.array([request.prompt_tokens for request in requests], np.int64),
        "category": np.array([index[request.category] for request in requests], np.int64),
        "categories": names,
        "group": _groups(files),
        "info": replace(info, provenance=origin),
        "source": source_of(files),
    }


def source_of(files: Mapping[Path, object]) -> str:
    """The files in a message."""
    return ", ".join(map(str, files))


def offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """First place of each request in a flat array, and the array's end, [R + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _run_of(files: Mapping[Path, Sequence[Recorded]]) -> dict[str, str | int]:
    """What the requests say of their run: a mixture of two has the acceptance of neither."""
    run: dict[str, str | int] = {}
    said_by: dict[str, Path] = {}
    for path, requests in files.items():
        for request in requests:
            for name, value in request.run.items():
                if run.setdefault(name, value) != value:
                    expected = f"one run, of {run[name]!r} as {said_by[name]} says"
                    raise TraceError(f"{path}: {name}: expected {expected}, got {value!r}")
                said_by.setdefault(name, path)
    return run


def _groups(files: Mapping[Path, Sequence[Recorded]]) -> NDArray[np.int64]:
    """Groups [R]: the first file's as they are, those of the others counted on from there."""
    first, *others = ([request.group for request in read] for read in files.values())
    joined = np.array(first, np.int64)
    for groups in others:
        counted = np.unique(np.array(groups, np.int64), return_inverse=True)[1]
        joined = np.concatenate([joined, joined.max() + 1 + counted])
    return joined
