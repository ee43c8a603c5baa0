"""The steps of the GPU campaign: a command each, what it shows, and the seconds it may take."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

#: Target and draft without a checkpoint: random weights by architecture.
SEVEN = ("--target", "random:llama-2-7b", "--draft", "random:llama-68m")
EIGHT = ("--target", "random:llama-3.1-8b", "--draft", "random:llama-3.2-1b")


@dataclass(frozen=True)
class Step:
    """Something to find out.

    Attributes:
        shows: What it shows, in words.
        words: Command line behind the interpreter, run in the repository's root.
        expected_s: Seconds that it should take on an H100.
        limit_s: Seconds after which it is stopped.
        demo: Whether it needs the demo's checkpoint.
    """

    shows: str
    words: tuple[str, ...]
    expected_s: int
    limit_s: int
    demo: bool = False


class Marked(NamedTuple):
    """A test that needs a GPU: its file, its name and what it says of itself."""

    file: str
    name: str
    about: str


def marked_tests(folder: Path = ROOT / "tests") -> Iterator[Marked]:
    """The tests with the marker gpu."""
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(
                ast.unparse(mark) == "pytest.mark.gpu" for mark in node.decorator_list
            ):
                about = ast.get_docstring(node) or node.name.removeprefix("test_").replace("_", " ")
                yield Marked(path.name, node.name, " ".join(about.split()))


def tests(result: Path, *, demo: bool) -> tuple[str, ...]:
    """The command for the marked tests, of the demo's checkpoint or all others."""
    chosen = sorted({test.file for test in marked_tests()})
    files = [f"tests/{name}" for name in chosen if (name == "test_demo_pair.py") is demo]
    return ("-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={result}", *files)


def campaign(out: Path) -> dict[str, Step]:
    """All steps in their order, those first that need no checkpoint.

    Args:
        out: Folder of the results, absolute; a step NAME writes NAME.json or NAME.xml there.
    """

    def probe(name: str) -> tuple[str, ...]:
        return ("scripts/gpu_probe.py", name, "--out", f"{out / name}.json")

    def calibrate(name: str, *options: str) -> tuple[str, ...]:
        made = ("--out", f"{out / name}.json", "--overwrite")
        return ("-m", "laps_env", "calibrate", "--device", "cuda", *options, *made)

    def fidelity(name: str, *options: str) -> tuple[str, ...]:
        made = ("--out", f"{out / name}.md", "--json", f"{out / name}.json", "--overwrite")
        return ("-m", "laps_env", "fidelity", "--device", "cuda", *options, *made)

    contexts, repeats = ("--contexts", "64,320,1024"), ("--repeats", "3")
    lengths = ("--draft-lengths", "0,4")
    forced = ("--acceptance", "recorded", "--scenario", "code-batch8-8b", "--repetitions", "4")
    crowd = ("--num-requests", "48", "--load", "1.2")  # enough for policies to differ
    bench = ("--num-prompts", "8", "--limit", "48", "--repeats", "2")
    return {
        "probe": Step("what the device can do at most", probe("probe"), 16, 60),
        "tests": Step("the marked tests", tests(out / "tests.xml", demo=False), 25, 90),
        "lossless": Step(
            "float32 texts through graphs equal `model.generate`", probe("lossless"), 22, 90
        ),
        "attention": Step("attention in place against a gather", probe("attention"), 14, 60),
        "captures": Step(
            "what captures cost, and passes of a 7B and a 68M against their floor",
            probe("captures"),
            30,
            90,
        ),
        "forced_7b": Step(
            "the replay against a live 7B + 68M under recorded acceptance",
            fidelity("forced_7b", *SEVEN, *forced, *crowd),
            110,  # a third of it compiles the simulation, the first time on a machine
            210,
        ),
        "calibrate_7b": Step(
            "costs of rounds, 7B + 68M, batch 1 to 32",
            calibrate("calibrate_7b", *SEVEN, *contexts, *lengths, *repeats),
            60,
            120,
        ),
        "calibrate_8b": Step(
            "costs of rounds, 8B + 1B, batch 1 to 32",
            calibrate("calibrate_8b", *EIGHT, *contexts, *lengths, *repeats),
            45,
            90,
        ),
        "demo_tests": Step(
            "the marked tests of the demo pair",
            tests(out / "demo_tests.xml", demo=True),
            50,
            150,
            demo=True,
        ),
        "demo_calibration": Step(
            "costs of rounds, the demo pair",
            calibrate("demo_calibration", "--contexts", "64,256", *lengths, *repeats),
            45,
            90,
            demo=True,
        ),
        "demo_bench": Step(
            "throughput against transformers, a round against its floor",
            (
                *("scripts/bench_live.py", "--device", "cuda", *bench),
                *("--draft-lengths", "0", "2", "4", "--out", f"{out / 'demo_bench'}.json"),
            ),
            80,
            150,
            demo=True,
        ),
        "demo_fidelity": Step(
            "the replay against the live demo pair",
            fidelity("demo_fidelity", "--max-new-tokens", "64", "--repetitions", "3"),
            80,
            150,
            demo=True,
        ),
    }
