"""Write the generated parts of the documents; see --help.

docs/environment.md is made whole, from the class docstring and the tables of columns. In the other
pages what stands between ``<!-- name:begin -->`` and ``<!-- name:end -->`` is replaced. With
``--results results.json`` the README's tables of results are filled too.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

import policies
from laps_env.env import SpecDecodeReplay
from laps_env.files import write_beside
from laps_env.layout import QUEUE_COLUMNS, SERVER_COLUMNS, Column
from laps_env.physics import CostModel
from laps_env.scenarios import Scenario, get_scenario, list_scenarios
from policies import Parameter

ROOT = Path(__file__).resolve().parent.parent

#: Policies of the README's tables, where the results have them.
MAIN_POLICIES = (
    "fcfs",
    "las_tuned",
    "sprpt_tuned",
    "laps_sd",
    "bayes_srpt_tuned",
    "gittins_tuned",
    "oracle_srpt",
)
RESULTS_LOAD = 0.9

ENVIRONMENT_PAGE = """# The environment

Written by `python scripts/make_docs.py` from the docstring of `laps_env.env.SpecDecodeReplay` and
the columns of `laps_env.layout`; edit those.

```python
import gymnasium as gym
```

{docstring}

## Columns of `observation["queue"]`

One row per slot. The lower bound is 0; "rounds" and "service" count what the server did, not what a
request would need.

{queue}

## Columns of `observation["server"]`

{server}
"""


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def columns_table(columns: tuple[Column, ...]) -> str:
    """Index, name, unit, bound and meaning of each column."""
    return table(
        ["index", "name", "unit", "at most", "meaning"],
        [[str(i), f"`{c.name}`", c.unit, f"{c.high:g}", c.meaning] for i, c in enumerate(columns)],
    )


def sections_as_lists(docstring: str) -> str:
    """``Args:`` and ``Raises:`` with their indented entries as markdown lists."""
    lines = []
    inside = False
    for line in docstring.splitlines():
        inside = line in ("Args:", "Raises:") or (inside and line.startswith("    "))
        entry = re.fullmatch(r"    (\w+): (.*)", line) if inside else None
        if line in ("Args:", "Raises:"):
            lines += [line, ""]
        elif entry:
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        else:
            lines.append("  " + line.strip() if inside else line)
    return "\n".join(lines)


def environment_page() -> str:
    """docs/environment.md."""
    return ENVIRONMENT_PAGE.format(
        docstring=sections_as_lists(inspect.cleandoc(SpecDecodeReplay.__doc__ or "")),
        queue=columns_table(QUEUE_COLUMNS),
        server=columns_table(SERVER_COLUMNS),
    )


def costs_table() -> str:
    """The constants of every cost model."""
    text = (files("laps_env") / "data" / "costs.json").read_text(encoding="utf-8")
    models: dict[str, dict[str, Any]] = json.loads(text)
    names = [f.name for f in fields(CostModel) if f.name != "source"]
    rows = [[f"`{n}`", *(f"{m[n]:,}" for m in models.values())] for n in names]
    return table(["constant (ns)", *(f"`{name}`" for name in models)], rows)


def scenario_numbers(scenario: Scenario) -> list[str]:
    """Lengths and acceptance over 2,000 requests of the *reference* set, saturation as stored."""
    workload = scenario.workload(load=1.0, num_requests=2000, set_tag="reference")
    n = scenario.server.reference_draft_length
    position, end = workload.offset[:-1].copy(), workload.offset[1:]
    accepted = rounds = 0
    while (running := position < end).any():
        position, end = position[running], end[running]
        hits = np.minimum(workload.accept_run[position], n).astype(np.int64)
        accepted += int(hits.sum())
        rounds += hits.size
        position = position + hits + 1
    return [
        f"`{scenario.name}`",
        str(scenario.server.batch_size),
        str(n),
        f"{workload.prompt_tokens.mean():.0f}",
        f"{workload.output_tokens.mean():.0f}",
        f"{accepted / (n * rounds):.3f}",
        f"{workload.output_tokens.sum() / rounds:.2f}",
        f"{scenario.saturation_rps:.4f}",
        scenario.description,
    ]


def scenarios_table() -> str:
    """The named scenarios."""
    return table(
        [
            "scenario",
            "batch",
            "draft length n",
            "mean prompt tokens",
            "mean output tokens",
            "A",
            "tokens / round",
            "saturation (requests/s)",
            "what it is",
        ],
        [scenario_numbers(get_scenario(name)) for name in list_scenarios()],
    )


def parameter_row(rule: str, parameter: Parameter, tuned: dict[str, float]) -> list[str]:
    """One parameter of a rule."""
    kind = ", log" * parameter.log + ", integer" * parameter.integer
    return [
        f"`{rule}`",
        f"`{parameter.name}`",
        f"{parameter.default:g}",
        parameter.source,
        f"{tuned[parameter.name]:g}",
        f"{parameter.low:g} .. {parameter.high:g}{kind}",
        parameter.meaning,
    ]


def parameters_table() -> str:
    """The parameters of all rules that are tuned, with the setting chosen over all scenarios."""
    rows = []
    for name, spec in policies.SPECS.items():
        if f"{name}_tuned" in policies.list_policies():
            tuned = policies.tuned_settings(name, "all")
            rows += [parameter_row(name, parameter, tuned) for parameter in spec.parameters]
    return table(["rule", "parameter", "default", "source", "tuned", "range", "meaning"], rows)


def results_tables(results: dict[str, Any]) -> str:
    """Ratio, p99 and gap closed of the main policies, a row per scenario."""
    rows = {
        (row["scenario"], row["policy"]): row
        for row in results["rows"]
        if row["load"] == RESULTS_LOAD
    }
    if not rows:
        raise ValueError(f"results: expected rows at load {RESULTS_LOAD}, got none")
    scenarios = list(dict.fromkeys(scenario for scenario, _ in rows))
    shown = {policy for _, policy in rows}
    names = [name for name in MAIN_POLICIES if name in shown]
    first = next(iter(rows.values()))
    reference = results["reference"]

    def ratio(row: dict[str, Any]) -> str:
        low, high = row["ratio_ci95"] or (np.nan, np.nan)
        return f"{row['ratio_to_laps_sd']:.2f} ({low:.2f}-{high:.2f})"

    def tail(row: dict[str, Any]) -> str:
        gap = "n/a" if row["gap_closed"] is None else f"{row['gap_closed']:.2f}"
        return f"{row['p99_latency_s']:.1f} / {gap}"

    def part(title: str, cell: Any, policies_shown: list[str]) -> str:
        body = [
            [s, *(cell(rows[s, p]) if (s, p) in rows else "-" for p in policies_shown)]
            for s in scenarios
        ]
        return f"{title}\n\n" + table(["scenario", *(f"`{p}`" for p in policies_shown)], body)

    conditions = (
        f"Load {RESULTS_LOAD}, {first['episodes']} workloads of {first['num_requests']} requests, "
        f"predictor error {first['predictor_error']}, code {results['code']}."
    )
    return "\n\n".join(
        [
            f"![Mean latency of each policy relative to {reference}](docs/results.png)",
            conditions,
            part(
                f"Mean latency / that of `{reference}` (95 % bootstrap interval over workloads):",
                ratio,
                names,
            ),
            part(
                "p99 latency in seconds (mean over workloads) / gap closed, from 0 = "
                f"`{reference}` to 1 = `{results['oracle']}` (n/a: too small a gap to divide):",
                tail,
                [*names, reference] if reference in shown else names,
            ),
        ]
    )


def with_part(page: str, name: str, content: str) -> str:
    """The page with what stands between the markers of ``name`` replaced."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"expected one pair of markers {begin} {end}")
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}\n{content}\n{end}{after}"


def generated_pages() -> dict[Path, str]:
    """Every page with generated parts, as it should be; the results stay as they are."""
    pages = {ROOT / "docs" / "environment.md": environment_page()}
    for name, part, content in (
        ("physics.md", "costs", costs_table()),
        ("scenarios.md", "scenarios", scenarios_table()),
        ("policies.md", "parameters", parameters_table()),
    ):
        path = ROOT / "docs" / name
        pages[path] = with_part(path.read_text(encoding="utf-8"), part, content)
    return pages


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, help="results.json for the README's tables")
    arguments = parser.parse_args()
    pages = generated_pages()
    if arguments.results is not None:
        readme = ROOT / "README.md"
        text = readme.read_text(encoding="utf-8")
        try:
            results = json.loads(arguments.results.read_text(encoding="utf-8"))
            pages[readme] = with_part(text, "results", results_tables(results))
        except (OSError, ValueError, LookupError, TypeError) as reason:
            parser.error(f"--results: expected the results.json of an evaluation, got {reason!r}")
    for path, text in pages.items():
        write_beside(path, [text.encode()])
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
