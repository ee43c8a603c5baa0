"""Infos of a vector environment as Gymnasium batches them: a value, and a mask of who has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Info = dict[str, Any]
Rows = npt.NDArray[np.bool_]


def all_rows(info: Info, num_envs: int) -> Info:
    """An info that every row has: each ``name`` [E, ...] with its mask ``_name`` [E]."""
    return {**info, **{f"_{name}": np.ones(num_envs, np.bool_) for name in info}}


def only_rows(info: Info, rows: Rows) -> Info:
    """The same info in some rows only; the values of the others are 0."""
    kept: Info = {}
    for name, value in info.items():
        if isinstance(value, dict):
            kept[name] = value
        elif name.startswith("_"):
            kept[name] = rows.copy()
        else:
            kept[name] = value.copy()
            kept[name][~rows] = 0
    return kept


def add_summaries(info: Info, summaries: dict[int, dict[str, Any]], ended: Rows) -> None:
    """Add ``summary``, the metrics of the rows whose episode has ended, and its masks."""
    table: Info = {}
    for name, example in next(iter(summaries.values())).items():
        column = np.zeros(ended.size, float if isinstance(example, float) else object)
        for row, summary in summaries.items():
            column[row] = summary[name]
        table[name] = column
        table[f"_{name}"] = ended.copy()
    info["summary"] = table
    info["_summary"] = ended.copy()


def first_row(info: Info) -> Info:
    """Row 0 as a single environment's info, without the masks."""
    first: Info = {}
    for name, value in info.items():
        if name.startswith("_"):
            continue
        if isinstance(value, dict):
            first[name] = first_row(value)
        else:
            scalar = isinstance(value[0], np.generic)
            first[name] = value[0].item() if scalar else value[0]
    return first
