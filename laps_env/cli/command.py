"""Options of a sub-command as a dataclass that tyro reads; lists take commas, spaces or both."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin

import tyro
from tqdm import tqdm
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

#: A share of saturation, or recorded arrivals with the gaps that they had.
Load = float | Literal["recorded"]


def metavar(name: str) -> Any:
    """Help of an option that may be left out, whose text says what happens then."""
    return tyro.conf.arg(
        metavar=name,
        help_behavior_hint=lambda default: "" if default == "None" else f"(default: {default})",
    )


File = Annotated[Path | None, metavar("FILE")]
Folder = Annotated[Path | None, metavar("FOLDER")]
Text = Annotated[str | None, metavar("STR")]
Count = Annotated[int | None, metavar("INT")]
Number = Annotated[float | None, metavar("FLOAT")]
PredictorError = Annotated[
    float | Literal["recorded", "refreshed"] | None, metavar("FLOAT|recorded|refreshed")
]

#: Characters of a message that are shown.
MAX_CHARACTERS = 1500

_REGISTRY = ConstructorRegistry()
_WORDS = {int: "an integer", float: "a number", str: "a text", Path: "a path", NoneType: "None"}


@dataclass(frozen=True)
class Command:
    """Options of a sub-command and its work.

    Attributes:
        resumes: Whether the same command goes on after an interruption.
    """

    resumes: ClassVar[bool] = False

    def run(self) -> int:
        """Do the work; the exit status.

        Raises:
            ImportError, OSError, ValueError: Bad input, in one line for the user.
        """
        raise NotImplementedError

    def usual(self) -> Self | None:
        """Other defaults where some of these options choose them, else None."""
        return None


Kind = TypeVar("Kind", bound=Command)


def parse(kind: type[Kind], arguments: Sequence[str], prog: str) -> Kind:
    """The options of a sub-command; its help ends the process.

    Raises:
        ValueError: Unknown options or values, with the nearest known ones.
    """
    options = _parse(kind, arguments, prog, None)
    usual = options.usual()
    return options if usual is None else _parse(kind, arguments, prog, usual)


def _parse(kind: type[Kind], arguments: Sequence[str], prog: str, default: Kind | None) -> Kind:
    settings: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(
                kind,
                prog=prog,
                args=arguments,
                registry=_REGISTRY,
                config=(
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.OmitArgPrefixes,
                    tyro.conf.OmitSubcommandPrefixes,
                    tyro.conf.CascadeSubcommandArgs,
                ),
                **settings,
            )
    except SystemExit as end:
        if end.code:
            raise ValueError(_unboxed(said.getvalue())) from None
        raise


def _unboxed(box: str) -> str:
    """What tyro says in a box: its parts in a line, without the title and the options' help."""
    plain = re.sub("[│╭╮╰╯]", " ", box)
    parts = [" ".join(part.split()) for part in re.split("[-─]{5,}", plain)]
    return "; ".join(part for part in parts[1:] if part and "helptext" not in part)


@_REGISTRY.primitive_rule
def _lists(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[tuple[Any, ...]] | None:
    """Any ``tuple[X, ...]``: ``a,b c`` are three, but of paths, which may have commas, two."""
    if get_origin(info.type) is not tuple or get_args(info.type)[1:] != (...,):
        return None
    item = get_args(info.type)[0]
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="A,B,...",
        instance_from_str=lambda given: tuple(
            _item(word, item) for word in (given if item is Path else _split(given))
        ),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


@_REGISTRY.primitive_rule
def _alternatives(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A number or a word, as ``float | Literal["recorded"]``."""
    kinds = get_args(info.type)
    if not any(get_origin(kind) is Literal for kind in kinds) or get_origin(info.type) is tuple:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="VALUE",
        instance_from_str=lambda given: _item(given[0], info.type),
        is_instance=lambda value: value is None or isinstance(value, int | float | str),
        str_from_instance=lambda value: [str(value)],
    )


def _split(given: list[str]) -> Iterator[str]:
    for word in given:
        yield from (part.strip() for part in word.split(",") if part.strip())


def _item(text: str, kind: Any) -> Any:
    expected: list[str] = []
    for choice in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        if get_origin(choice) is Literal:
            if text in get_args(choice):
                return text
            expected += map(repr, get_args(choice))
        elif choice is NoneType and text == "None":
            return None
        elif choice is not NoneType:
            try:
                return choice(text)
            except ValueError:
                expected.append(_WORDS[choice])
    raise ValueError(f"expected {' or '.join(expected)}, got {text!r}")


@contextmanager
def progress(total: float, done: float = 0, unit: str = "run", **settings: Any) -> Iterator[Any]:
    """A progress bar on a terminal; elsewhere a plain line every half minute."""
    terminal = sys.stderr.isatty()
    with tqdm(
        total=total,
        initial=done,
        unit=unit,
        file=sys.stderr if terminal else _Lines(),
        mininterval=0.5 if terminal else 30,
        **settings,
    ) as bar:
        yield bar


class _Lines:
    """Standard error, to which a bar's states go as lines."""

    def write(self, text: str) -> None:
        """Write a state of the bar."""
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        """Write what is held back."""
        sys.stderr.flush()


def one_line(text: str) -> str:
    """Text without line breaks and other control characters, and not endless."""
    plain = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text)
    return plain if len(plain) <= MAX_CHARACTERS else f"{plain[:MAX_CHARACTERS]}..."
