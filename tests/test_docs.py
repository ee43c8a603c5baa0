"""The documents: their examples run and print what they show, their generated parts are current."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from result_rows import make_results, make_row

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

#: A block with the file that it is, or the reason why it is not run, where the page names one, and,
#: directly below it, what it prints.
BLOCK = re.compile(
    r"(?:^<!-- (file|not run): ([^\n]+) -->\n)?^```(\w+)\n(.*?)^```\n(?:```text\n(.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


class Example(NamedTuple):
    mark: str | None
    about: str | None
    language: str
    code: str
    shown: str | None

    @property
    def file(self) -> str | None:
        return self.about if self.mark == "file" else None

    @property
    def runs(self) -> bool:
        return self.mark is None and self.language in ("python", "sh")


def examples(page: Path) -> Iterator[Example]:
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Example(*match.groups())


@pytest.mark.docs
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_examples_print_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in one namespace, in an empty directory; each block in a file, as rules need."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "example"}
    for i, example in enumerate(examples(page)):
        file = tmp_path / (example.file or f"block_{i}.py")
        file.write_text(example.code, encoding="utf-8")
        if not example.runs:  # a file is there for the commands below it
            continue
        if example.language == "sh":
            printed = run_commands(example.code)
            shown = printed if example.shown is None else example.shown
        else:
            caught = io.StringIO()
            with contextlib.redirect_stdout(caught):
                exec(compile(example.code, str(file), "exec"), namespace)
            printed, shown = caught.getvalue(), example.shown or ""
        assert printed == shown, f"{name_of(page)}, block {i}:\n{example.code}"


def commands(code: str) -> Iterator[list[str]]:
    """The words of each command; what installs is left out, and targets are looked up."""
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] == "." or words[1:3] == ["-m", "venv"]:
            continue
        if "pip" in Path(words[0]).name:
            continue
        if words[0] == "make":
            assert words[1] in targets[1].split(), line
            continue
        if Path(words[0]).name == "laps-env":
            yield ["-m", "laps_env", *words[1:]]
            continue
        assert Path(words[0]).name == "python", f"expected a known command: {line}"
        yield [str(ROOT / a) if a.startswith("scripts/") else a for a in words[1:]]


def run_commands(code: str) -> str:
    """Each, with this interpreter and this checkout's scripts; what they print."""
    printed = ""
    for words in commands(code):
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        assert done.returncode == 0, f"{words}\n{done.stderr[-2000:]}"
        printed += done.stdout
    return printed


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_not_run_could_be(page: Path) -> None:
    """Python compiles, commands have the options, JSON is JSON."""
    for example in examples(page):
        if example.language == "json":
            json.loads(example.code)
        if example.mark != "not run":
            continue
        if example.language == "python":
            compile(example.code, name_of(page), "exec")
        for words in commands(example.code) if example.language == "sh" else ():
            text = help_of(script_of(words))
            missing = [w for w in words if w.startswith("--") and w not in text]
            assert not missing, (name_of(page), words)


def script_of(words: list[str]) -> tuple[str, ...]:
    """The script or sub-command of a command, without its options."""
    if words[:2] == ["-m", "laps_env"]:
        return tuple(words[: 4 if words[2] in ("import", "scenario") else 3])
    return tuple(word for word in words if not word.startswith("-"))[:1]


@cache
def help_of(script: tuple[str, ...]) -> str:
    done = subprocess.run([sys.executable, *script, "--help"], capture_output=True, text=True)
    if "No module named 'tree'" in done.stderr:  # RLlib has an environment of its own
        return Path(script[0]).read_text(encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_all_code_is_in_blocks_that_the_tests_know(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    assert not re.findall(r"\n\n(    \S.*)", text)
    known = {"python", "sh", "json", "text", "csv", "jsonl", "toml"}
    assert {example.language for example in examples(page)} <= known


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


@pytest.fixture
def make_docs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("make_docs")


@pytest.fixture
def make_board(make_docs: ModuleType) -> ModuleType:
    return importlib.import_module("make_board")


def test_generated_parts_are_current(make_docs: ModuleType) -> None:
    for path, text in make_docs.generated_pages().items():
        assert path.read_text(encoding="utf-8") == text, f"run scripts/make_docs.py: {path.name}"


@pytest.mark.parametrize("name", ["board.md", "reproduction.md"])
def test_measured_pages_are_of_this_simulator(make_docs: ModuleType, name: str) -> None:
    """Of its version, these scenarios and these tuned parameters; else measure again."""
    made_from = importlib.import_module("made_from")
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert made_from.is_current(page)
    assert not made_from.is_current(page.replace("made from ", "made from f"))


def test_results_fill_their_place_on_the_board(
    make_docs: ModuleType, make_board: ModuleType
) -> None:
    numbers: dict[str, Any] = {
        "scenario": "chat-serial-8b",
        "ratio_to_reference": 1.5,
        "ratio_ci95": (1.25, 1.75),
    }
    row, reference, other = (
        make_row(policy, p99=12.34, load=load, **numbers)
        for policy, load in (("fcfs", 0.9), ("laps_sd_tuned", 0.9), ("fcfs", 0.7))
    )
    base = make_row("laps_sd_tuned", load=0.7, **numbers)
    results = make_results(row, reference, other, base)
    page = (ROOT / "docs" / "board.md").read_text(encoding="utf-8")
    limits: dict[str, Any] = {
        "slo_attainment": 0.75,
        "slo_attainment_ci95": (0.5, 1.0),
        "p99_ttft_s": 1.0,
    }
    kept = replace(row, **limits, goodput_rps=2.0, goodput_rps_ci95=(1.0, 3.0), longest_stall_s=0.5)
    board = make_board.board(results, make_results(kept))
    filled = make_docs.with_part(page, "board", board)
    for cell in (
        "| `fcfs` | 0.750 (0.500-1.000) | 2.00 (1.00-3.00) | 1.00 | 12.34 | 1.00 | 0 | 0.5 |",
        "| 1.50 (1.25-1.75) |",
        "| 12.3 / n/a | 12.3 / n/a |",
        "load 0.9 and 0.7, 2 work",
    ):
        assert cell in filled
    assert make_docs.with_part(filled, "board", "") == make_docs.with_part(page, "board", "")


def test_families_stand_side_by_side(make_board: ModuleType) -> None:
    """Ratios of the latencies themselves, per family, at the load of the tables alone."""
    rows = [
        make_row(policy, mean, p99, scenario=scenario, load=load, source={"acceptance": family})
        for scenario, family, factor in (
            ("chat-serial-135m", "recorded here", 2.0),
            ("chat-serial-8b", "generator there", 3.0),
        )
        for load in (0.7, 0.9)
        for policy, mean, p99 in (("laps_sd_tuned", 1.0, 2.0), ("fcfs", load * factor, factor))
    ]
    lines = make_board.families_side_by_side(make_results(*rows)).splitlines()
    assert lines[2] == "| `laps_sd_tuned` | 1.00 | 1.00 | 1.00 | 1.00 |"
    assert lines[3] == "| `fcfs` | 1.80 | 1.00 | 2.70 | 1.50 |"


def test_missing_markers_are_named(make_docs: ModuleType) -> None:
    with pytest.raises(ValueError, match="one pair of markers <!-- costs:begin -->"):
        make_docs.with_part("no markers", "costs", "")
