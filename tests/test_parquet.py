"""Results as a Parquet table: the same rows, and what they are of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_evaluation import GRID, run

from laps_env.cli import main
from laps_env.report.export import export_rows

pq = pytest.importorskip("pyarrow.parquet")


def test_a_table_has_all_that_the_results_have(tmp_path: Path) -> None:
    results, path = run(GRID), tmp_path / "rows.parquet"
    results.rows[0] = replace(results.rows[0], load="recorded")
    export_rows(results, path)
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"laps_env"])
    expected = json.loads(msgspec.json.encode(results))
    assert about == {"created": expected["created"], "platform": expected["platform"]}
    nested = {name for name, value in expected["rows"][0].items() if isinstance(value, dict)}
    for line, row in zip(table.to_pylist(), expected["rows"], strict=True):
        back = {n: json.loads(v) if n in nested else v for n, v in line.items()}
        assert back == row | ({"load": None} if row["load"] == "recorded" else {})


def test_the_command_writes_it_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = "--quick --scenario chat-batch8-135m --episodes 2 --requests 20 --policies fcfs,las"
    main(["evaluate", *grid.split(), "--export", "rows.parquet"])
    assert "table: rows.parquet" in capsys.readouterr().out
    assert pq.read_table("rows.parquet")["policy"].to_pylist() == ["fcfs", "las", "laps_sd_tuned"]

    def expect(message: str, *options: Any) -> None:
        with pytest.raises(SystemExit) as stopped:
            main(["evaluate", *grid.split(), *options])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err

    expect("expected a different name for each", "--json", "one.csv", "--export", "one.csv")
    expect("expected a file in an existing folder", "--export", "nowhere/rows.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    expect("parquet: expected the extra 'parquet' (pyarrow)", "--export", "other.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]
