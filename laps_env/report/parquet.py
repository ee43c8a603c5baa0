"""The rows of a results file as a Parquet table."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from laps_env.evaluation.results import Results
from laps_env.utils.files import write_beside

#: A number in most rows, "recorded" in some.
_NUMBER_OR_RECORDED = ("load", "predictor_error")


def check_parquet() -> None:
    """Whether the library is there.

    Raises:
        ValueError: No pyarrow.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ValueError(f"parquet: expected the extra 'parquet' (pyarrow), got {error}") from None


def write_parquet(results: Results, path: Path, columns: Sequence[str]) -> None:
    """A line per row, a column per chosen entry; lists stay lists, dictionaries become JSON text.

    A load or a predictor error "as recorded" is null, for a column holds numbers or text. When and
    where the results were made is JSON text, ``laps_env`` in the table's metadata.

    Args:
        results: Content of a results file, of the replay or of a live server.
        path: Path of the table, which is written in one move.
        columns: Names of the entries.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = msgspec.to_builtins(results)
    table = pa.Table.from_pylist([_line(row) for row in about.pop("rows")]).select(columns)
    del about["texts"], about["definitions"]
    table = table.replace_schema_metadata({"laps_env": json.dumps(about)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_beside(path, [buffer.getvalue()])


def _line(row: dict[str, Any]) -> dict[str, Any]:
    plain = {n: json.dumps(v) if isinstance(v, dict) else v for n, v in row.items()}
    text = [n for n in _NUMBER_OR_RECORDED if isinstance(plain.get(n), str)]
    return plain | dict.fromkeys(text)
