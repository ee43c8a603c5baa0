"""Hyper-parameters as data: `agents/data/hyperparameters.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from fnmatch import fnmatch
from importlib.resources import files
from typing import Any


def hyperparameters(algorithm: str, scenarios: Sequence[str]) -> dict[str, Any]:
    """What a run of an algorithm on these scenarios starts from, by option.

    Args:
        algorithm: a table of the file.
        scenarios: names; an entry counts where its pattern matches all of them.
    """
    path = files("laps_env.agents") / "data" / "hyperparameters.toml"
    found: dict[str, Any] = {}
    for entry in tomllib.loads(path.read_text(encoding="utf-8")).get(algorithm, []):
        if all(fnmatch(name, entry["scenarios"]) for name in scenarios):
            found |= {name: as_option(v) for name, v in entry.items() if name != "scenarios"}
    return found


def as_option(value: Any) -> Any:
    """Lists as tuples and "None" as None, as the options have them."""
    if isinstance(value, list):
        return tuple(map(as_option, value))
    return None if value == "None" else value
