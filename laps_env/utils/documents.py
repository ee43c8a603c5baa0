"""JSON documents of this project: one decoder, whose errors say what was expected and what came.

A document is an object with ``format`` and ``version`` beside its own members. What these must be
is said by a type: a dataclass, a `msgspec.Struct`, or a container of such.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from laps_env.utils.files import write_beside

Typed = TypeVar("Typed")

_PLACE = re.compile(r"(?P<expected>.*) - at `\$(?P<place>.*)`", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]")


def convert(document: Any, kind: type[Typed]) -> Typed:
    """Plain JSON values as a typed object.

    Raises:
        ValueError: naming the member, what was expected and what came.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_message(document, str(error))) from None


def read_document(path: Path, kind: type[Typed], format_: str, version: int) -> Typed:
    """The document in a file, checked.

    Args:
        path: of the file.
        kind: what the members must be; ``format`` and ``version`` are checked here.
        format_: name that the file must say.
        version: number that the file must say.

    Raises:
        ValueError: no JSON, another format or version, or a member that is wrong; the message names
            the file, the member, what was expected and what came.
        OSError: the file cannot be read.
    """
    try:
        document = msgspec.json.decode(path.read_bytes())  # refuses NaN and infinities
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from None
    try:
        if not isinstance(document, dict):
            raise ValueError(f"expected an object, got {_shown(document)}")
        for name, value in (("format", format_), ("version", version)):
            found = document.pop(name, None)
            if type(found) is not type(value) or found != value:
                raise ValueError(f"{name}: expected {value!r}, got {found!r}")
        return convert(document, kind)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None


def write_document(path: Path, format_: str, version: int, members: dict[str, Any]) -> None:
    """Write a document in one move, its format and version first.

    Raises:
        ValueError: members that JSON cannot hold, NaN and infinities among them.
        OSError: the file cannot be written.
    """
    whole = {"format": format_, "version": version, **members}
    try:
        text = json.dumps(whole, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected what JSON can hold, got {error}") from None
    write_beside(path, [(text + "\n").encode()])


def _message(document: Any, error: str) -> str:
    """A message of msgspec's in this project's words, with the value that came."""
    found = _PLACE.fullmatch(error)
    expected, place = (found["expected"], found["place"]) if found else (error, "")
    value, named = document, ""
    for step in _STEP.finditer(place):
        try:
            value = value[step["name"]] if step["name"] else value[int(step["index"])]
        except (KeyError, IndexError, TypeError):
            value = None
    named = place.removeprefix(".")
    expected = re.sub(r", got `.*`", "", expected).replace("`", "")
    expected = expected[:1].lower() + expected[1:]
    return f"{named}: {expected}, got {_shown(value)}" if named else f"{expected}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
