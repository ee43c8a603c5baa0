"""Infos of a vector environment as Gymnasium batches them: a value, and a mask of who has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Info = dict[str, Any]
Bools = npt.NDArray[np.bool_]


def unmasked(info: Info, num_envs: int) -> Info:
    """Info that every environment has: each ``name`` [E, ...] with its mask ``_name`` [E]."""
    return {**info, **{f"_{name}": np.ones(num_envs, np.bool_) for name in info}}


def masked(info: Info, having: Bools) -> Info:
    """Info that only some environments have; the values of the others are 0."""
    kept: Info = {}
    for name, value in info.items():
        if isinstance(value, dict):
            kept[name] = value
        elif name.startswith("_"):
            kept[name] = having.copy()
        else:
            kept[name] = value.copy()
            kept[name][~having] = 0
    return kept


def add_summaries(info: Info, summaries: dict[int, dict[str, Any]], ended: Bools) -> None:
    """Add ``summary``, the metrics of the episodes that have ended, and its masks."""
    table: Info = {}
    for name, example in next(iter(summaries.values())).items():
        column = np.zeros(ended.size, float if isinstance(example, float) else object)
        for index, summary in summaries.items():
            column[index] = summary[name]
        table[name] = column
        table[f"_{name}"] = ended.copy()
    info["summary"] = table
    info["_summary"] = ended.copy()


def first(info: Info) -> Info:
    """Info of environment 0 alone, without the masks."""
    single: Info = {}
    for name, value in info.items():
        if name.startswith("_"):
            continue
        if isinstance(value, dict):
            single[name] = first(value)
        else:
            scalar = isinstance(value[0], np.generic)
            single[name] = value[0].item() if scalar else value[0]
    return single
