"""Valid input made invalid, or extreme: every change is decided by the generator that is given."""

from __future__ import annotations

import copy
import gzip
import json
import math
import re
from random import Random
from typing import Any

EXTREMES: tuple[Any, ...] = (
    *(None, True, False, "", "x", "None", "nan", "\0", "\x1b[2J", "\ud800", "../x", [], {}, [[]]),
    *(-1, 0, 1, 255, 256, 2**31, 2**53 + 1, 2**62, 2**63, 2**64, 10**30, 10**400),
    *(-0.0, 0.5, 1e-300, 1e17, 1e300, math.nan, math.inf, -math.inf),
)

_NUMBER = re.compile(rb"-?\d+(\.\d+)?(e[+-]?\d+)?")
_MEMBER = re.compile(rb'"[^"]*": ?')


def damaged_value(value: Any, rng: Random) -> Any:
    """A document of plain JSON values with one to three changes."""
    document = {"whole": copy.deepcopy(value)}
    for _ in range(rng.randint(1, 3)):
        _change_one(document, rng)
    return document.get("whole")


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below a node."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, child in items:
        found.append((node, key))
        if isinstance(child, dict | list):
            found += _places(child)
    return found


def _change_one(document: dict[str, Any], rng: Random) -> None:
    places = _places(document)
    if not places:
        return
    owner, key = rng.choice(places)
    value = owner[key]
    kind = rng.choice(("extreme", "extreme", "near", "other", "drop", "repeat", "nest"))
    if kind == "extreme":
        owner[key] = copy.deepcopy(rng.choice(EXTREMES))
    elif kind == "near" and isinstance(value, int | float):
        owner[key] = rng.choice((value + 1, value - 1, -value, value * 1000))
    elif kind == "other":  # a value from elsewhere in the document
        other, place = rng.choice(places)
        if place in other if isinstance(other, dict) else place < len(other):
            owner[key] = copy.deepcopy(other[place])
    elif kind == "drop":
        del owner[key]
    elif kind == "repeat" and isinstance(owner, list):
        owner.insert(key, copy.deepcopy(value))
    elif kind == "repeat":
        owner[f"{key}x"] = value
    elif kind == "nest":
        owner[key] = rng.choice(([value], {"x": value}))


def damaged_bytes(data: bytes, rng: Random) -> bytes:
    """A file with one to three changes that know nothing of its format but how texts look."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 8, 50)))
        kind = rng.choice(("cut", "flip", "drop", "repeat", "zeros", "number", "member", "line"))
        if kind == "cut":
            data = data[:at]
        elif kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif kind == "drop":
            data = data[:at] + data[end:]
        elif kind == "repeat":
            data = data[:end] + data[at:end] + data[end:]
        elif kind == "zeros":
            data = data[:at] + bytes(end - at) + data[end:]
        elif kind == "number" and (numbers := list(_NUMBER.finditer(data))):
            found = rng.choice(numbers)
            data = data[: found.start()] + text_of(rng.choice(EXTREMES)) + data[found.end() :]
        elif kind == "member" and (members := list(_MEMBER.finditer(data))):  # a key twice
            found = rng.choice(members)
            twice = found[0] + text_of(rng.choice(EXTREMES)) + b", "
            data = data[: found.start()] + twice + data[found.start() :]
        elif kind == "line":
            lines = data.splitlines(keepends=True)
            rng.shuffle(lines)
            data = b"".join(lines)
    return data


def damaged_json(value: Any, rng: Random) -> bytes:
    """The text of a document, changed as a value or as a text."""
    if rng.random() < 0.7:
        return text_of(damaged_value(value, rng))
    return damaged_bytes(text_of(value), rng)


def damaged_lines(records: list[Any], rng: Random) -> bytes:
    """JSON lines, some compressed, changed likewise."""
    if rng.random() < 0.7:
        changed = damaged_value(records, rng)
        records = changed if isinstance(changed, list) else [changed]
        data = b"\n".join(map(text_of, records)) + b"\n"
    else:
        data = damaged_bytes(b"\n".join(map(text_of, records)) + b"\n", rng)
    if rng.random() < 0.2:
        data = gzip.compress(data, mtime=0)
        return damaged_bytes(data, rng) if rng.random() < 0.5 else data
    return data


def damaged_arrays(data: bytes, rng: Random) -> bytes:
    """A safetensors file, changed in its header, in its numbers, or anywhere."""
    size = int.from_bytes(data[:8], "little")
    header, numbers = data[8 : 8 + size], data[8 + size :]
    kind = rng.choice(("header", "metadata", "numbers", "anywhere"))
    if kind == "anywhere":
        return damaged_bytes(data, rng)
    if kind == "numbers":
        at = rng.randrange(max(1, len(numbers) - 8))
        extreme = rng.choice((b"\xff" * 8, bytes(8), b"\0\0\xc0\x7f" * 2, b"\x01" + bytes(7)))
        return data[: 8 + size] + numbers[:at] + extreme + numbers[at + 8 :]
    document = json.loads(header)
    metadata = document.get("__metadata__", {})
    if kind == "metadata" and metadata:  # a document in a text
        name = rng.choice(sorted(metadata))
        metadata[name] = damaged_json(json.loads(metadata[name]), rng).decode(errors="replace")
    else:
        document = damaged_value(document, rng)
    header = text_of(document)
    return len(header).to_bytes(8, "little") + header + numbers


def text_of(value: Any) -> bytes:
    """JSON, with NaN and infinities as Python writes them."""
    return json.dumps(value).encode()
