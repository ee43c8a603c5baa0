"""Whether a results file holds: a sample of its workloads is run again and compared bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from laps_env.checks import check_count
from laps_env.evaluation.runner import CODE, FORMAT, VERSION, rerun
from laps_env.files import read_json

_METRIC, _LISTED = "mean_latency_s", "episode_mean_latency_s"


@dataclass(frozen=True)
class Check:
    """One workload of a row, run again.

    Attributes:
        row: scenario, load, policy and seed in words.
        claimed, found: mean latency, seconds.
    """

    row: str
    claimed: float
    found: float

    @property
    def holds(self) -> bool:
        """Whether both are the same number."""
        return self.claimed == self.found


def check_results(path: Path, count: int) -> Iterator[Check]:
    """Run so many workloads of a results file again, drawn from all of its rows.

    Raises:
        ValueError: no results file of this version, one of other code, of a live server or of a
            recording or policy that is not here.
        OSError: it cannot be read.
    """
    check_count("sample", count)
    results = read_results(path)
    places = [(k, i) for k, row in enumerate(results["rows"]) for i in range(len(row["seeds"]))]
    rng = np.random.default_rng(0)
    for place in rng.permutation(len(places))[:count].tolist():
        number, episode = places[place]
        row = results["rows"][number]
        where = (
            "{scenario}, load {load}, {policy}".format(**row) + f", seed {row['seeds'][episode]}"
        )
        try:
            found = rerun(row, episode)[_METRIC]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: {where}: {error}") from None
        yield Check(where, row[_LISTED][episode], found)


def read_results(path: Path) -> dict[str, Any]:
    """A results file whose rows this code can run again.

    Raises:
        ValueError: it is none, of another version, or of other code.
        OSError: it cannot be read.
    """
    return read_json(path, _checked)


def _checked(document: Any) -> dict[str, Any]:
    """The document, if it can be run again by this code."""
    if not isinstance(document, dict):
        raise ValueError(f"expected an object, got {type(document).__name__}")
    for name, value in (("format", FORMAT), ("version", VERSION)):
        if document.get(name) != value:
            raise ValueError(f"{name}: expected {value!r}, got {document.get(name)!r}")
    if document.get("code") != CODE:
        raise ValueError(
            f"code: expected results of {CODE}, got those of {document.get('code')!r}, which may "
            "differ: check them with the code that made them"
        )
    rows = document.get("rows")
    if not isinstance(rows, list) or not rows:
        raise ValueError("rows: expected at least one, got none")
    for k, row in enumerate(rows):
        missing = [name for name in _NEEDED if name not in row]
        if missing:
            raise ValueError(f"row {k}: expected {', '.join(_NEEDED)}; {missing} missing")
        lists = [row["seeds"], row[_LISTED]]
        if not all(isinstance(values, list) and values for values in lists):
            raise ValueError(f"row {k}: expected lists of seeds and of latencies, got {lists}")
        if len(row["seeds"]) != len(row[_LISTED]):
            raise ValueError(
                f"row {k}: expected a latency for each of {len(row['seeds'])} seeds, "
                f"got {len(row[_LISTED])}"
            )
    return document


#: What a row must say to be run again.
_NEEDED = (
    "scenario",
    "load",
    "policy",
    "policy_sha256",
    "parameters",
    "num_requests",
    "set_tag",
    "seeds",
    "slots",
    "predictor_error",
    "saturation_rps",
    "recordings",
    "sha256",
    _LISTED,
)
