"""Check that public docstrings and their entries begin with a subject; run by `make lint`.

A summary, and every entry under Args, Attributes, Returns, Yields and Raises, has to make sense
where it stands alone: "Seed of all random draws.", not "of all draws" and not "Of all draws.".
Prints what does not, file by file, then how many in each package.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from docstring_parser.google import parse

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("laps_env", "policies", "agents")

#: Words that go on with something said before, and so are no subject.
DEPENDENT = {"As", "By", "For", "From", "Of", "That", "To", "Whose", "With"}

Named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | Named


def public(node: Documented) -> Iterator[Documented]:
    """Yield a module, class or function, and what it holds whose name has no leading underscore."""
    yield node
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, Named) and not child.name.startswith("_"):
                yield from public(child)


def fault(text: str) -> str | None:
    """Return what is wrong with the beginning or the end of a text."""
    first = re.match(r"\w+", text)
    if first and first[0].islower():  # vLLM is a name
        return "begins with a lower-case letter"
    if first and first[0] in DEPENDENT:
        return f"begins with {first[0]!r}"
    if not text.endswith((".", "!", ":", "```")):
        return "does not end with a period"
    return None


def texts(docstring: str) -> Iterator[tuple[str, str]]:
    """Yield the summary and every entry of a docstring, each after a name for it."""
    parsed = parse(docstring)
    yield "summary", docstring.split("\n\n")[0]
    for entry in parsed.meta:
        section, *names = entry.args
        if entry.description:
            yield " ".join(names) or section, entry.description


def faults(path: Path) -> Iterator[str]:
    """Yield a line for every fault of a file."""
    for node in public(ast.parse(path.read_text(encoding="utf-8"))):
        docstring = ast.get_docstring(node)
        line = getattr(node, "lineno", 1)
        for name, text in texts(docstring) if docstring else ():
            if wrong := fault(text):
                start = " ".join(text.split())[:50]
                yield f"{path.relative_to(ROOT)}:{line}: {name} {wrong}: {start!r}"


def main(only: list[str]) -> int:
    """Check all files, or those whose path begins with one of the given ones."""
    found: Counter[str] = Counter()
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if only and not name.startswith(tuple(only)):
                continue
            for line in faults(path):
                print(line)
                found[path.parent.relative_to(ROOT).as_posix()] += 1
    for package, count in found.most_common():
        print(f"{count:5} {package}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
