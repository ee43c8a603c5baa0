"""Checks of single numbers: every error names what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

#: Bounds of what an observation shows: counts are exact in float32 up to 2**24.
MAX_COUNT = 2.0**24
MAX_SECONDS = 1e9

#: Beyond any count that means something, and int64 sums of a few such numbers do not wrap.
_MOST = 2**62


def check_count(
    name: str, value: object, *, least: int = 1, most: int = _MOST, optional: bool = False
) -> None:
    """Raise ``ValueError`` unless ``value`` is an integer in range (or None, where optional)."""
    if optional and value is None:
        return
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integer or value < least:  # type: ignore[operator]
        raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}")
    if value > most:  # type: ignore[operator]
        raise ValueError(f"{name}: expected an integer <= {most}, got {value!r}")


def check_one_of(name: str, value: object, known: Iterable[str]) -> None:
    """Raise ``ValueError`` unless the value is one of the known ones, which the message lists."""
    choices = list(known)
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}; got {value!r}")


def check_list(name: str, value: object) -> None:
    """Raise ``ValueError`` unless ``value`` is a list or a tuple that is not empty."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name}: expected a list, got {value!r}")
    if not value:
        raise ValueError(f"{name}: expected at least one, got none")


def check_positive(name: str, value: object) -> float:
    """The value as a float.

    Raises:
        ValueError: The value is no finite number > 0.
    """
    if not is_finite(value) or value <= 0:  # type: ignore[operator]
        raise ValueError(f"{name}: expected a finite number > 0, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def check_not_negative(name: str, value: object) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number >= 0."""
    if not is_finite(value) or value < 0:  # type: ignore[operator]
        raise ValueError(f"{name}: expected a finite number >= 0, got {value!r}")


def is_finite(value: object) -> bool:
    """Whether a value is a number that a float can hold; a truth value is none."""
    if not isinstance(value, int | float | np.number) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except (OverflowError, TypeError):  # an integer beyond all floats, a complex number
        return False
