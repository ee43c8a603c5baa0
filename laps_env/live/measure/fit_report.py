"""What is written and printed of costs that were fitted to somebody's records."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from laps_env.sim.costs import CostModel
from laps_env.traces.step_log import RunHeader


def fit_document(
    source: Path,
    header: RunHeader | None,
    cost: CostModel,
    errors: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Members of a calibration file that all of them have.

    Args:
        source: File of records.
        header: What it is a log of; None = nobody knows.
        cost: Cost model.
        errors: Held-out error by term.
    """
    software = {"python": platform.python_version(), "laps_env": version("laps-env")}
    if header is None:
        about: dict[str, Any] = {
            "device": {"name": f"the unnamed server of {source.name}"},
            "software": software,
            "models": {"target": "unnamed target", "draft": "unnamed draft"},
            "dtype": "unknown precision",
        }
    else:
        about = {
            "device": {"name": header.device},
            "software": {"engine": header.engine, **software},
            "models": {
                "target": header.target,
                "draft": header.draft or header.drafter or "no drafter",
            },
            "dtype": header.dtype,
        }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return {"created": created, **about, "cost": cost, "errors": errors}


def print_fit(
    cost: CostModel, intervals: Mapping[str, Sequence[float]], notes: Sequence[str]
) -> None:
    """Print the constants with their intervals, and the notes."""
    for name, value in asdict(cost).items():
        if name != "source":
            bounds = "  {:16,.1f} .. {:,.1f}".format(*intervals[name]) if name in intervals else ""
            print(f"{name:20} {value:16,.1f}{bounds}")
    for note in notes:
        print(note)


def print_errors(
    samples: str, errors: Mapping[str, Mapping[str, float]], total_error: float
) -> None:
    """Print the error of each term, and that of the whole time."""
    error = errors["round"]
    print(
        f"held-out {samples}: error mean {error['mean']:.1%}, p90 {error['p90']:.1%}; "
        f"their total {total_error:+.1%}"
    )
    for name, error in errors.items():
        if name != "round":
            told = f"mean {error['mean']:6.1%}, p90 {error['p90']:6.1%}"
            print(f"  {name:16} {told} of {error['samples']:,} {samples}")
