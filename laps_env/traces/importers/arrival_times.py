"""Times and token counts of recorded arrivals, as texts and as numbers, with nothing rounded."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

from laps_env.traces.importers.records import NoTokensError
from laps_env.utils.documents import shown

Unit = Literal["s", "ms", "us", "ns"]

#: Nanoseconds of each.
UNIT_NS: dict[Unit, int] = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

#: Latest time of a trace in seconds; int64 nanoseconds hold little more.
LATEST_S = 9 * 10**9

#: Most tokens of a prompt or an output: int64 sums of two do not wrap.
_MOST_TOKENS = 2**62

_CALENDAR = re.compile(
    r"(20\d\d-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)?", re.ASCII
)
_NUMBER = re.compile(r"\d{1,19}(?:\.\d{0,30})?(?:[eE][+-]?\d{1,2})?", re.ASCII)
_TOKENS = re.compile(r"(\d{1,18})(?:\.0*)?", re.ASCII)  # 472.0 as pandas writes integers


class CalendarClock:
    """Reader of calendar times with up to nine decimals, all of one time zone.

    Args:
        name: Name of the column, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._zone: str | None = None

    def __call__(self, text: str) -> int:
        """Nanoseconds on a clock of that zone.

        Raises:
            ValueError: No time of the calendar, or one of another zone than the first.
        """
        found = _CALENDAR.fullmatch(text)
        if found is None:
            expected = "YYYY-MM-DD hh:mm:ss.fffffff, with an offset or without"
            raise ValueError(f"{self._name}: expected {expected}, got {text!r}")
        day, second, fraction, zone = found.groups("")
        zone = "+00:00" if zone == "Z" else zone
        if self._zone is None:
            self._zone = zone
        if zone != self._zone:
            expected = f"the time zone of the first, {self._zone or 'which says none'}"
            raise ValueError(f"{self._name}: expected {expected}, got {text!r}")
        try:
            seconds = _seconds(f"{day} {second}")
        except ValueError:
            raise ValueError(
                f"{self._name}: expected a time of the calendar, got {text!r}"
            ) from None
        return seconds * 10**9 + int(fraction.ljust(9, "0"))

    @property
    def assumed(self) -> list[str]:
        """What the times read so far do not say."""
        return [] if self._zone else [f"{self._name}: times without a zone are UTC"]


@lru_cache(maxsize=64)  # requests of the same second follow each other
def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


class NumberClock:
    """Reader of times that are numbers.

    Args:
        name: Name of the column, for messages.
        unit: Unit of the times.
        assumed: What is not said of the unit.
    """

    def __init__(self, name: str, unit: Unit, *assumed: str) -> None:
        self._name = name
        self._unit: Unit = unit
        self.assumed = list(assumed)

    def __call__(self, text: str) -> int:
        """Nanoseconds.

        Raises:
            ValueError: No number >= 0, or one that is too large.
        """
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"{self._name}: expected a number in {self._unit}, got {text!r}")
        return nanoseconds(self._name, Decimal(text), self._unit)


def is_number(text: str) -> bool:
    """Whether a text can be read by a `NumberClock`."""
    return _NUMBER.fullmatch(text) is not None


def nanoseconds(name: str, time: float | Decimal, unit: Unit) -> int:
    """Nanoseconds of a time >= 0, exact for integers and decimals, which a float would round.

    Raises:
        ValueError: The time is too large, or no number.
    """
    scaled = time * UNIT_NS[unit]
    if not 0 <= scaled <= LATEST_S * 10**9:
        latest = LATEST_S * 10**9 // UNIT_NS[unit]
        raise ValueError(f"{name}: expected a number in 0 .. {latest} {unit}, got {shown(time)}")
    return round(scaled)


def tokens(what: Literal["prompt", "output"], name: str, value: Any) -> int:
    """Length of a prompt or an output, from a number or a text.

    Raises:
        NoTokensError: The length is 0.
        ValueError: No integer.
    """
    count = value
    if isinstance(value, str):
        found = _TOKENS.fullmatch(value)
        count = int(found[1]) if found else None
    elif isinstance(value, float) and value.is_integer():
        count = int(value)
    if type(count) is not int or not 0 <= count <= _MOST_TOKENS:
        raise ValueError(f"{name}: expected an integer >= 1, got {shown(value)}")
    if count == 0:
        raise NoTokensError(what, f"{name}: expected an integer >= 1, got 0")
    return count
