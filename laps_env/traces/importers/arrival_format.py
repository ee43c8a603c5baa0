"""What every format of recorded arrivals is read by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from laps_env.traces.importers.arrival_times import Unit

#: Arrival in nanoseconds, prompt tokens, output tokens, hash of the request's own name.
Request = tuple[int, int, int, int]

#: In place of the hash of a name, where a request has none; no hash of Python's is that.
NAMELESS = -1


@dataclass
class Format:
    """Reader of one file.

    Attributes:
        name: Name of the format, in words.
        time: Name of the arrival times in the file.
        requests: Function that reads the requests with the number of the line or entry of each;
            its keywords are the treatments of `parse_entries`.
        place: Word for such a part of the file.
        identity: Name of the requests' own names in the file, None without.
        ordered: Whether the file says that it is in order of arrival.
        any_unit: Whether the times may be in another unit than was taken.
        assumed: Function that says, after the reading, what was assumed.
    """

    name: str
    time: str
    requests: Callable[..., Iterator[tuple[int, Request]]]
    place: str = "line"
    identity: str | None = None
    ordered: Callable[[], bool] = lambda: True
    any_unit: bool = True
    assumed: Callable[[], Iterable[str]] = tuple


def check_no_unit(unit: Unit | None, times: str) -> None:
    """Raise ``ValueError`` where a unit is given for times that have their own."""
    if unit is not None:
        raise ValueError(f"unit: expected none for {times}, got {unit!r}")
