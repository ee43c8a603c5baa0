"""The page from a server's logs to a decision, on data of others that the repository has not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_docs import ROOT, examples, run_commands

from laps_env.evaluation.results import read_results

PAGE = ROOT / "docs" / "from_logs.md"
DATA = (
    "arrivals/AzureLLMInferenceTrace_conv.csv",
    "acceptance/vicuna7b_vicuna68m_rounds.jsonl.gz",
    "prompts/spec_bench.jsonl",
)


@pytest.mark.slow
def test_the_pages_commands_run_on_public_data(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As written, in a folder that has the data and the page's scenario."""
    monkeypatch.chdir(tmp_path)
    for name in DATA:
        shutil.copy(shared_data / name, tmp_path)
    blocks = list(examples(PAGE))
    (tmp_path / "azure.toml").write_text(next(b.code for b in blocks if b.file == "azure.toml"))
    printed = run_commands(next(b.code for b in blocks if b.about == "data of others"))
    assert "azure.jsonl: 19366 requests in 3502 s" in printed
    assert "load 11.4" in printed  # of what one request at a time can do
    advice = (tmp_path / "azure.md").read_text()
    assert "batch 1, draft" in advice
    assert advice in printed
    rows = read_results(tmp_path / "azure.json").rows
    assert {row.scenario for row in rows} == {"azure"}
