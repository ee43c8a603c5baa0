"""Reading results files, also those of others: data that is checked before anything uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from laps_env.evaluation.recordings import Recordings
from laps_env.evaluation.runner import CODE, FORMAT, VERSION
from laps_env.utils.checks import check_count, check_positive, is_finite
from laps_env.utils.files import read_json
from laps_env.workloads.scenarios import AS_RECORDED

#: Each workload's mean and p99 latency in seconds, in full precision.
LATENCIES, TAILS = "episode_mean_latency_s", "episode_p99_latency_s"

#: What a row must say to be run again, and shown, by kind.
_TEXTS = ("scenario", "policy", "split")
_OBJECTS = ("parameters", "recordings", "source", "sha256")
_COUNTS = ("num_requests", "slots", "episodes")
_POSITIVE = (
    "saturation_rps",
    "mean_latency_s",
    "ratio_to_reference",
    "p50_latency_s",
    "p95_latency_s",
    "p99_latency_s",
    "mean_ttft_s",
    "max_slowdown",
)
_NEEDED = (
    *_TEXTS,
    *_OBJECTS,
    *_COUNTS,
    *_POSITIVE,
    "load",
    "policy_sha256",
    "predictor_error",
    "seeds",
    "ratio_ci95",
    "gap_closed",
    "max_idle_s",
    LATENCIES,
    TAILS,
)


def read_results(path: Path) -> dict[str, Any]:
    """A results file whose rows this code can run again.

    Raises:
        ValueError: it is none, of another version, or of other code.
        OSError: it cannot be read.
    """
    return read_json(path, _checked)


def place_of(row: dict[str, Any]) -> str:
    """Scenario and load of a row, in words."""
    return f"{row['scenario']}, load {row['load']}"


def _checked(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ValueError(f"expected an object, got {type(document).__name__}")
    for name, value in (("format", FORMAT), ("version", VERSION)):
        if document.get(name) != value:
            raise ValueError(f"{name}: expected {value!r}, got {document.get(name)!r}")
    if document.get("code") != CODE:
        raise ValueError(
            f"code: expected results of {CODE}, got those of {document.get('code')!r}, which may "
            "differ: use the code that made them"
        )
    for name in ("created", "reference", "oracle"):
        if not isinstance(document.get(name), str):
            raise ValueError(f"{name}: expected a text, got {document.get(name)!r}")
    rows = document.get("rows")
    if not isinstance(rows, list) or not rows:
        raise ValueError("rows: expected at least one, got none")
    for k, row in enumerate(rows):
        try:
            _check_row(row)
        except ValueError as reason:
            raise ValueError(f"row {k}: {reason}") from None
    return document


def _check_row(row: Any) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    missing = [name for name in _NEEDED if name not in row]
    if missing:
        raise ValueError(f"expected {', '.join(_NEEDED)}; {missing} missing")
    for names, kind, text in ((_TEXTS, str, "a text"), (_OBJECTS, dict, "an object")):
        for name in names:
            if not isinstance(row[name], kind):
                raise ValueError(f"{name}: expected {text}, got {row[name]!r}")
    for name in _TEXTS:
        if not row[name].isprintable():
            raise ValueError(f"{name}: expected a text of one line, got {row[name]!r}")
    if not all(is_finite(value) for value in row["parameters"].values()):
        raise ValueError(f"parameters: expected numbers, got {row['parameters']}")
    if not isinstance(row["source"].get("acceptance"), str):
        raise ValueError(f"source: expected where acceptance comes from, got {row['source']}")
    try:
        Recordings(**row["recordings"])
    except TypeError as error:
        raise ValueError(f"recordings: {error}") from None
    for name in _COUNTS:
        check_count(name, row[name])
    for name in _POSITIVE:
        check_positive(name, row[name])
    if row["load"] != AS_RECORDED:
        check_positive("load", row["load"])
    if row["gap_closed"] is not None and not is_finite(row["gap_closed"]):
        raise ValueError(f"gap_closed: expected a number or null, got {row['gap_closed']!r}")
    if not is_finite(row["max_idle_s"]) or row["max_idle_s"] < 0:
        raise ValueError(f"max_idle_s: expected a number >= 0, got {row['max_idle_s']!r}")
    _check_lists(row)


def _check_lists(row: dict[str, Any]) -> None:
    """Seeds with latencies each, of which the row's are the means; an interval."""
    seeds, bounds = row["seeds"], row["ratio_ci95"]
    for name in ("seeds", LATENCIES, TAILS):
        if not isinstance(row[name], list) or len(row[name]) != row["episodes"]:
            raise ValueError(f"{name}: expected a list of {row['episodes']}, got {row[name]!r}")
    if not all(type(seed) is int for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: expected different integers, got {seeds}")
    for name in (LATENCIES, TAILS):
        for latency in row[name]:
            check_positive(name, latency)
    for name, listed in (("mean_latency_s", LATENCIES), ("p99_latency_s", TAILS)):
        mean = float(np.mean(row[listed]))
        if not np.isclose(row[name], mean, rtol=1e-9):
            raise ValueError(f"{name}: expected the mean of {listed}, {mean}, got {row[name]}")
    if bounds is not None:
        if not isinstance(bounds, list) or len(bounds) != 2:
            raise ValueError(f"ratio_ci95: expected two numbers or null, got {bounds!r}")
        for bound in bounds:
            check_positive("ratio_ci95", bound)
