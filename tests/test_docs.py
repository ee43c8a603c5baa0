"""The documents: their examples run and print what they show, their generated parts are current."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: A block that is run, with the file that it is where the page names one, and, directly below it,
#: what it prints.
BLOCK = re.compile(
    r"(?:^<!-- file: (\S+) -->\n)?^```(python|sh)\n(.*?)^```\n(?:```text\n(.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


class Example(NamedTuple):
    file: str | None
    language: str
    code: str
    shown: str | None


def examples(page: Path) -> Iterator[Example]:
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Example(*match.groups())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_examples_print_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in one namespace, in an empty directory; each block in a file, as rules need."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "example"}
    for i, example in enumerate(examples(page)):
        if example.language == "sh":
            run_commands(example.code)
            continue
        file = tmp_path / (example.file or f"block_{i}.py")
        file.write_text(example.code, encoding="utf-8")
        if example.file:  # the commands below it use it
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(example.code, str(file), "exec"), namespace)
        shown = example.shown or ""
        assert printed.getvalue() == shown, f"{name_of(page)}, block {i}:\n{example.code}"


def run_commands(code: str) -> None:
    """Each line, with this interpreter and this checkout's scripts; what installs is left out."""
    for line in code.splitlines():
        command, *arguments = shlex.split(line)
        if command != "python":
            assert command in ("pip", "make"), f"expected a command that the test knows, got {line}"
            continue
        inside = [str(ROOT / a) if a.startswith("scripts/") else a for a in arguments]
        done = subprocess.run([sys.executable, *inside], capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"


def test_all_pages_are_on_the_site() -> None:
    listed = set(re.findall(r"\S+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_pages_have_examples() -> None:
    counts = {name_of(page): len(list(examples(page))) for page in PAGES}
    assert counts["README.md"] >= 3
    assert counts["docs/policies.md"] >= 4
    assert counts["docs/scenarios.md"] >= 2


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    missing = [
        link
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / link.partition("#")[0]).is_file()
    ]
    assert not missing


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_current(make_docs: ModuleType) -> None:
    for path, text in make_docs.generated_pages().items():
        assert path.read_text(encoding="utf-8") == text, f"run scripts/make_docs.py: {path.name}"


def test_results_fill_their_place_in_the_readme(make_docs: ModuleType) -> None:
    row = {
        "scenario": "chat-serial-8b",
        "load": 0.9,
        "policy": "fcfs",
        "episodes": 3,
        "num_requests": 10,
        "predictor_error": 0.5,
        "source": {"acceptance": "generator x"},
        "ratio_to_laps_sd": 1.5,
        "ratio_ci95": [1.25, 1.75],
        "p99_latency_s": 12.34,
        "gap_closed": None,
    }
    reference = {**row, "policy": "laps_sd_tuned"}
    results = {
        "rows": [row, reference, {**row, "load": 0.7}],
        "reference": "laps_sd_tuned",
        "oracle": "oracle_srpt",
        "code": "0+x",
    }
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    filled = make_docs.with_part(readme, "results", make_docs.results_tables(results))
    for cell in ("| 1.50 (1.25-1.75) |", "| 12.3 / n/a | 12.3 / n/a |"):
        assert cell in filled
    assert make_docs.with_part(filled, "results", "") == make_docs.with_part(readme, "results", "")


def test_missing_markers_are_named(make_docs: ModuleType) -> None:
    with pytest.raises(ValueError, match="one pair of markers <!-- costs:begin -->"):
        make_docs.with_part("no markers", "costs", "")
