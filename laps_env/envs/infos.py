"""Infos of a vector environment as Gymnasium batches them: a value, and a mask of who has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Info = dict[str, Any]
Bools = npt.NDArray[np.bool_]


def unmasked(info: Info, everyone: Bools) -> Info:
    """Info that every environment has: each ``name`` [E, ...] with its mask ``_name`` [E]."""
    return {**info, **{f"_{name}": everyone.copy() for name in info}}


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
    """Add ``summary``, the metrics of the episodes that have ended, and its masks.

    An episode may have a metric that others have not: of a category, of limits.
    """
    table: Info = {}
    for name in dict.fromkeys(name for summary in summaries.values() for name in summary):
        having = {index: s[name] for index, s in summaries.items() if name in s}
        numbers = all(isinstance(value, float) for value in having.values())
        table[name] = np.zeros(ended.size, float if numbers else object)
        table[f"_{name}"] = np.zeros(ended.size, np.bool_)
        for index, value in having.items():
            table[name][index], table[f"_{name}"][index] = value, True
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
