"""Tables for papers and other tools: CSV, Markdown, LaTeX, Parquet, by the name of the file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from laps_env.evaluation.results import Results, Row
from laps_env.report.parquet import check_parquet, write_parquet
from laps_env.report.tables import markdown_table
from laps_env.utils.checks import check_one_of
from laps_env.utils.files import write_beside

Lines = Iterable[Sequence[Any]]

PARQUET = ".parquet"

#: What a text of LaTeX must not have as it is; brackets and stars mean something after ``\\``.
_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        **{character: f"{{{character}}}" for character in "[]*"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)


def check_export(path: Path, columns: Sequence[str] = ()) -> None:
    """Whether `export_rows` can write such a table.

    Raises:
        ValueError: Another ending, no pyarrow for Parquet, an unknown column or one given twice.
    """
    check_one_of(f"{path}: ending", path.suffix, [*_WRITERS, PARQUET])
    if path.suffix == PARQUET:
        check_parquet()
    for column in columns:
        check_one_of("columns", column, _known())
    if len(set(columns)) < len(columns):
        raise ValueError(f"columns: expected each once, got {', '.join(columns)}")


def export_rows(results: Results, path: Path, columns: Sequence[str] = ()) -> None:
    """Write a line per row, a column per entry, in one move.

    CSV and Parquet hold numbers in full, lists and objects as JSON text (lists of Parquet stay
    lists); Markdown and LaTeX have four digits.

    Args:
        results: Content of a results file, of the replay or of a live server.
        path: Path of the table, ending in .csv, .md, .tex or .parquet.
        columns: Names of entries of `laps_env.evaluation.results.Row`, by default all.

    Raises:
        ValueError: What `check_export` raises.
        OSError: The file cannot be written.
    """
    check_export(path, columns)
    chosen = list(columns) or _known()
    if path.suffix == PARQUET:
        write_parquet(results, path, chosen)
        return
    rows = msgspec.to_builtins(results.rows)
    text = _WRITERS[path.suffix](chosen, [[row[name] for name in chosen] for row in rows])
    write_beside(path, [text.encode()])


def csv_text(headings: Sequence[str], lines: Lines) -> str:
    """A table as CSV: numbers in full, lists and objects as JSON, nothing for "no data"."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows([_in_full(value) for value in line] for line in lines)
    return text.getvalue()


def latex_table(headings: Sequence[str], lines: Lines) -> str:
    """A table as LaTeX with the rules of booktabs: texts to the left, numbers to the right."""
    lines = list(lines)
    columns = zip(*lines, strict=True)
    align = "".join("l" if any(isinstance(v, str) for v in values) else "r" for values in columns)
    cells = [[_rounded(value).translate(_LATEX) for value in line] for line in (headings, *lines)]
    first, *others = (" & ".join(line) + r" \\" for line in cells)
    begin, end = rf"\begin{{tabular}}{{{align}}}", r"\end{tabular}"
    parts = [begin, r"\toprule", first, r"\midrule", *others, r"\bottomrule", end]
    return "\n".join(parts) + "\n"


def _markdown(headings: Sequence[str], lines: Lines) -> str:
    return markdown_table(headings, (map(_rounded, line) for line in lines)) + "\n"


_WRITERS: dict[str, Callable[[Sequence[str], Lines], str]] = {
    ".csv": csv_text,
    ".md": _markdown,
    ".tex": latex_table,
}


def _known() -> list[str]:
    return [field.name for field in fields(Row)]


def _in_full(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _rounded(value: Any) -> str:
    """A value for people."""
    if value is None:
        return "n/a"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_rounded, value))}]"
    if isinstance(value, dict):
        return ", ".join(f"{name}={_rounded(one)}" for name, one in value.items())
    return str(value)
