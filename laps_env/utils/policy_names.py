"""Parameters in a policy's name, ``laps_sd:tolerance=0.2,queues=4``, and lists of such names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product


def split_settings(name: str) -> tuple[str, dict[str, float]]:
    """A policy's name without its parameters, and their values.

    Raises:
        ValueError: What follows the name is no list of parameters with a finite number each, or has
            one twice.
    """
    policy, pieces = _cut(name)
    settings: dict[str, float] = {}
    for piece in pieces:
        parameter, _, value = (part.strip() for part in piece.partition("="))
        if not parameter.isidentifier():
            raise ValueError(f"{policy}: expected PARAMETER=NUMBER, got {piece!r}")
        if parameter in settings:
            raise ValueError(f"{policy}: {parameter}: expected one value, got a second, {value!r}")
        settings[parameter] = _finite(f"{policy}: {parameter}", value)
    return policy, settings


def list_names(pieces: Iterable[str]) -> tuple[str, ...]:
    """Names of policies in a list that was cut at its commas, sweeps written out.

    A piece ``queues=4`` belongs to the name with parameters that it follows. Several values with
    slashes between them, ``laps_sd:tolerance=0.1/0.2``, are a policy each.
    """
    names: list[str] = []
    for piece in pieces:
        parameter, is_, _ = piece.partition("=")
        if names and _cut(names[-1])[1] and is_ and parameter.isidentifier():
            names[-1] += f",{piece}"
        else:
            names.append(piece)
    return tuple(each for name in names for each in _swept(name))


def _cut(name: str) -> tuple[str, list[str]]:
    """A policy's name, and the pieces behind its last colon where one of them gives a value."""
    policy, _, tail = name.rpartition(":")
    return (policy, tail.split(",")) if policy and "=" in tail else (name, [])


def _swept(name: str) -> list[str]:
    """A name for every combination of the values that its parameters have."""
    policy, pieces = _cut(name)
    if not pieces:
        return [name]
    cut = [piece.partition("=") for piece in pieces]
    choices = [
        [f"{parameter}{is_}{v}" for v in values.split("/")] for parameter, is_, values in cut
    ]
    return [f"{policy}:{','.join(chosen)}" for chosen in product(*choices)]


def _finite(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {text!r}")
    return value
