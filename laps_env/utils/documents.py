"""JSON documents of this project: one decoder, whose errors say what was expected and what came.

A document is an object with ``format`` and ``version`` beside its own members. What these must be
is said by a type: a dataclass, a `msgspec.Struct`, or a container of such. A type may check more in
its ``__post_init__``, with errors of the form ``member: expected X, got Y``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from laps_env.utils.files import write_beside

Typed = TypeVar("Typed")

#: Types in a message of msgspec's, and what this project's messages call them.
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
_PLACE = re.compile(r"(?P<text>.*) - at `\$(?P<place>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]")


def convert(document: Any, kind: type[Typed], name: str = "") -> Typed:
    """Turn plain JSON values into a typed object.

    Args:
        document: Plain JSON values.
        kind: Type that says what they must be.
        name: Place of the values in a larger document, for messages.

    Raises:
        ValueError: A value that is not as its type says; the message names the member, what was
            expected and what came.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_message(document, str(error), name)) from None
    except UnicodeEncodeError as error:  # JSON can hold half a character
        place = f"{name}: " if name else ""
        raise ValueError(f"{place}expected texts of whole characters, got {error}") from None


def convert_document(document: Any, kind: type[Typed], format_: str, version: int) -> Typed:
    """Turn a whole document into a typed object, after a look at its format and version.

    Args:
        document: Plain JSON values.
        kind: Type of the members other than ``format`` and ``version``.
        format_: Name that the document must say.
        version: Number that the document must say.

    Raises:
        ValueError: No object, another format or version, or a member that is wrong.
    """
    if not isinstance(document, dict):
        raise ValueError(f"expected an object, got {shown(document)}")
    for name, value in (("format", format_), ("version", version)):
        found = document.get(name)
        if type(found) is not type(value) or found != value:
            advice = ": made by another version, make it again" if name == "version" else ""
            raise ValueError(f"{name}: expected {value!r}, got {shown(found)}{advice}")
    members = {name: v for name, v in document.items() if name not in ("format", "version")}
    return convert(members, kind)


def read_document(path: Path, kind: type[Typed], format_: str, version: int) -> Typed:
    """Read and check the document in a file; the arguments are those of `convert_document`.

    Raises:
        ValueError: No JSON (NaN and infinities are none), or what `convert_document` raises; the
            message names the file.
        OSError: The file cannot be read.
    """
    try:
        document = msgspec.json.decode(path.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from None
    try:
        return convert_document(document, kind, format_, version)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None


def encode_document(path: Path, format_: str, version: int, members: dict[str, Any]) -> bytes:
    """Content of a document's file, its format and version first; the path is for the message.

    Raises:
        ValueError: Members that JSON cannot hold, NaN and infinities among them.
    """
    whole = {"format": format_, "version": version, **members}
    try:
        text = json.dumps(whole, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected what JSON can hold, got {error}") from None
    return (text + "\n").encode()


def write_document(path: Path, format_: str, version: int, members: dict[str, Any]) -> None:
    """Write a document in one move.

    Raises:
        ValueError: Members that JSON cannot hold, NaN and infinities among them.
        OSError: The file cannot be written.
    """
    write_beside(path, [encode_document(path, format_, version, members)])


def shown(value: object) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _message(document: Any, error: str, name: str) -> str:
    """A message of msgspec's in this project's words, with the value that came."""
    found = _PLACE.fullmatch(error)
    text, place = (found["text"], found["place"]) if found else (error, "")
    where = f"{name}{place}" if name else place.removeprefix(".")
    if member := _MISSING.fullmatch(text):
        return f"{_joined(where, member[1])}: expected a value, got none"
    if member := _UNKNOWN.fullmatch(text):
        return f"{_joined(where, member[1])}: expected no such member"
    if ": expected " in text:  # by a type's own check
        return _joined(where, text)
    expected, _, kind = text.partition(", got ")
    expected = re.sub("`(.*?)`", lambda words: _in_words(words[1]), expected)
    expected = expected[:1].lower() + expected[1:]
    if not expected.startswith("expected"):  # "Number out of range", "Invalid enum value 'x'"
        expected = f"expected another value ({expected})"
    # The place of a dictionary's value is [...]: msgspec does not say whose it is.
    value = kind if "[...]" in place else shown(_value_at(document, place))
    return f"{where}: {expected}, got {value}" if where else f"{expected}, got {value}"


def _joined(where: str, member: str) -> str:
    return f"{where}.{member}" if where else member


def _in_words(types: str) -> str:
    return " or ".join(_WORDS.get(name, name) for name in types.split(" | "))


def _value_at(document: Any, place: str) -> Any:
    """The value at a place like ``.weights[3]``; None where the document has no such."""
    for step in _STEP.finditer(place):
        try:
            document = document[step["name"] or int(step["index"])]
        except (KeyError, IndexError, TypeError):
            return None
    return document
