"""The campaign for a GPU, tried on the CPU: its steps run, go on where they ended, and become pages."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_a_subset_runs_and_is_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu
    from gpu_results import read

    few = ["--out", str(tmp_path), "--tiny", "--steps", "probe", "lossless"]
    assert gpu.main(few) == 0
    known = read(tmp_path / "results.json")
    assert known.tiny
    assert known.device["type"] == "cpu"
    assert [name for name, outcome in known.steps.items() if outcome.ok] == ["probe", "lossless"]
    assert gpu.main(few) == 0
    assert read(tmp_path / "results.json") == known
    assert "0 of 2 steps to run" in capsys.readouterr().out
