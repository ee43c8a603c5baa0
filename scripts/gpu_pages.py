"""Turn the results of `scripts/gpu.py` into docs/gpu.md and the package's calibrations.

    python scripts/gpu_pages.py runs/gpu/results.json

A campaign on a GPU fills the tables of the steps and of the marked tests, and its calibrations go
into laps_env/data/calibrations, named after the device; then run scripts/make_docs.py. A dry run
(--tiny) fills its own record only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu_results import Campaign, Outcome, read
from gpu_steps import ROOT, campaign, marked_tests
from make_docs import with_part

from laps_env.live.measure.calibrate import draw, samples_of
from laps_env.live.measure.fitting import fit
from laps_env.report.tables import markdown_table
from laps_env.sim.calibration_file import read_calibration
from laps_env.utils.files import write_beside

#: Calibrations by step, and what their files' names begin with.
CALIBRATIONS = {
    "calibrate_7b": "llama-2-7b",
    "calibrate_8b": "llama-3.1-8b",
    "demo_calibration": "smollm2-135m",
}

#: Outcomes of a test, the one that counts of several first.
OUTCOMES = ("failure", "error", "skipped", "passed")


def probe(told: dict[str, Any]) -> str:
    """The device's ceilings."""
    found = told["found"]
    return (
        f"{found['bytes_per_s']['read'] / 1e9:,.0f} GB/s read, "
        f"{found['bfloat16_flops'] / 1e12:.0f} TFLOP/s in bfloat16; a kernel takes "
        f"{found['kernel_in_graph_s'] * 1e6:.1f} us in a graph, {found['launch_s'] * 1e6:.1f} alone"
    )


def lossless(told: dict[str, Any]) -> str:
    """How many texts are the reference's."""
    found = told["found"]
    return f"{found['same']} of {found['texts']} texts the same, {found['accepted']} accepted"


def attention(told: dict[str, Any]) -> str:
    """Time in place over the time of a gather, and how far the outputs are apart."""
    calls = told["found"]["calls"]
    said = []
    for way in ("in place", "in parts"):
        timed = [call["seconds"] for call in calls if way in call["seconds"]]
        if ratios := [seconds[way] / seconds["gathered"] for seconds in timed]:
            said.append(f"{way} {min(ratios):.2f} to {max(ratios):.2f} x the time of a gather")
    apart = max(max(call["difference"].values()) for call in calls)
    return f"{', '.join(said)}; {apart:.1g} apart"


def captures(told: dict[str, Any]) -> str:
    """Passes of one token and rounds over their floor, and what a first pass takes."""
    passes, rounds = told["found"]["passes"], told["found"]["rounds"]
    first = max(p["first_s"] for p in passes)
    small = {p["role"]: p for p in reversed(passes) if p["batch"] == p["tokens"] == 1}
    ratios = (f"{role} {p['pass_s'] / p['floor_s']:.2f}" for role, p in sorted(small.items()))
    parts = (f"{row['draft_length']} drafted {row['ratio']:.2f}" for row in rounds)
    return (
        f"batch 1, one token, over the floor: {', '.join(ratios)}; a round over its floor: "
        f"{', '.join(parts)}; first pass up to {first:.2f} s"
    )


def calibration(told: dict[str, Any]) -> str:
    """Error of the fit on rounds that it has not seen."""
    known, padded = told["errors"]["round"], told["padded_work"]["errors"]["round"]
    return (
        f"rounds held out: mean {known['mean']:.1%}, p90 {known['p90']:.1%}; with padded work "
        f"counted {padded['mean']:.1%}; {told['captures']} captures in timed rounds"
    )


def fidelity(told: dict[str, Any]) -> str:
    """Differences under the calibrated clock, and errors under the measured one."""
    exact = told["exact"]
    apart = sum(e["steps_apart"] + e["rounds_apart"] + e["metrics_apart"] for e in exact)
    worst = {
        metric: max(abs(e["error"]) for e in told["errors"] if e["metric"] == metric)
        for metric in ("mean_latency_s", "p99_latency_s")
    }
    return (
        f"{apart} differences in {sum(e['rounds'] for e in exact)} rounds; error of mean latency "
        f"up to {worst['mean_latency_s']:.1%}, of p99 {worst['p99_latency_s']:.1%}; "
        f"{told['captures']} captures"
    )


def bench(told: dict[str, Any]) -> str:
    """The best of the engine against each peer, and the round at batch 1 nearest to its floor."""
    best: dict[str, float] = {}
    for row in told["ratios"]:
        best[row["peer"]] = max(best.get(row["peer"], 0.0), row["ratio"])
    ratios = ", ".join(f"{ratio:.2f} x {peer}" for peer, ratio in best.items())
    floor = min(row["ratio"] for row in told["rounds"])
    return f"{ratios}; a round takes {floor:.2f} x its floor"


#: What is said of a step's file, by step; the tests have a table of their own.
FIGURES: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "probe": probe,
    "lossless": lossless,
    "attention": attention,
    "captures": captures,
    "forced_7b": fidelity,
    "demo_bench": bench,
    "demo_fidelity": fidelity,
    **dict.fromkeys(CALIBRATIONS, calibration),
}


def where(known: Campaign) -> str:
    """The device and the software, in words."""
    versions = ", ".join(f"{name} {version}" for name, version in known.software.items())
    return f"{known.device['name']} ({known.device['type']}), {versions}"


def in_words(outcome: Outcome | None) -> str:
    """How a step ended, for a table."""
    if outcome is None:
        return "not run"
    if outcome.ok:
        return f"done in {outcome.seconds:.0f} s, {outcome.date[:10]}"
    return outcome.error


def dry_run(known: Campaign) -> str:
    """The record of a dry run."""
    rows = [
        (f"`{name}`", f"{outcome.seconds:.0f}", "passed" if outcome.ok else in_words(outcome))
        for name, outcome in known.steps.items()
    ]
    last = max(outcome.date for outcome in known.steps.values())
    total = sum(outcome.seconds for outcome in known.steps.values())
    about = f"{last[:10]}, {where(known)}, tiny models: {total:.0f} s in all."
    return f"{about}\n\n{markdown_table(('step', 'seconds', 'result'), rows)}"


def steps_table(known: Campaign | None, folder: Path) -> str:
    """What a campaign on a GPU found, step by step; without one, that nothing has run."""
    done = {} if known is None else known.steps
    rows = []
    for name, step in campaign(folder).items():
        outcome = done.get(name)
        found = ""
        if outcome is not None and outcome.ok and name in FIGURES:
            found = FIGURES[name](json.loads((folder / f"{name}.json").read_text("utf-8")))
        rows.append((f"`{name}`", step.shows, step.expected_s, in_words(outcome), found))
    headings = ("step", "what it shows", "expected s", "last result", "found")
    about = "No step has run on a GPU." if known is None else f"On {where(known)}."
    return f"{about}\n\n{markdown_table(headings, rows)}"


def tests_table(folder: Path | None) -> str:
    """The marked tests with their last results on a GPU, of the files that pytest left there."""
    results = {} if folder is None else test_outcomes(folder)
    rows = [
        (f"`{test.file}::{test.name}`", test.about, results.get((test.file, test.name), "not run"))
        for test in marked_tests()
    ]
    return markdown_table(("test (tests/)", "what it shows", "last result"), rows)


def test_outcomes(folder: Path) -> dict[tuple[str, str], str]:
    """The outcome of each test by file and name; of one with parameters, the worst."""
    found: dict[tuple[str, str], str] = {}
    for path in (folder / "tests.xml", folder / "demo_tests.xml"):
        cases = ElementTree.parse(path).iter("testcase") if path.is_file() else ()
        for case in cases:
            file = case.attrib["classname"].rpartition(".")[2] + ".py"
            key = file, case.attrib["name"].partition("[")[0]
            tags = {child.tag for child in case}
            outcome = next(o for o in OUTCOMES if o in tags or o == "passed")
            found[key] = min(found.get(key, "passed"), outcome, key=OUTCOMES.index)
    return found


def ship(known: Campaign, folder: Path, data: Path, pictures: Path) -> list[Path]:
    """Copy the calibrations to the package's, and draw them; the files written.

    Args:
        known: What has run.
        folder: Folder of its results.
        data: Folder of the package's calibrations.
        pictures: Folder of the pictures that docs/calibration.md shows.

    Raises:
        ValueError: A file that is no calibration.
    """
    words = str(known.device["name"]).lower().replace("-", " ").split()
    device = next((word for word in words if any(map(str.isdigit, word))), words[-1])
    written = []
    for step, pair in CALIBRATIONS.items():
        if step in known.steps and known.steps[step].ok:
            source = folder / f"{step}.json"
            read_calibration(source)
            name = f"{pair}-{device}"
            written += [data / f"{name}.json", pictures / f"calibration-{name}.png"]
            write_beside(written[-2], [source.read_bytes()])
            samples = samples_of(json.loads(source.read_text("utf-8"))["grid"])
            draw(samples, fit(samples), written[-1])
    return written


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="results.json of a campaign")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/gpu.md")
    parser.add_argument("--data", type=Path, default=ROOT / "laps_env/data/calibrations")
    options = parser.parse_args(argv)
    known, folder = read(options.results), options.results.resolve().parent
    page = options.page.read_text(encoding="utf-8")
    written = [options.page]
    if known.tiny:
        page = with_part(page, "dry-run", dry_run(known))
    else:
        page = with_part(page, "steps", steps_table(known, folder))
        page = with_part(page, "tests", tests_table(folder))
        written += ship(known, folder, options.data, options.page.parent)
    write_beside(options.page, [page.encode()])
    print("written:", *written)


if __name__ == "__main__":
    main()
