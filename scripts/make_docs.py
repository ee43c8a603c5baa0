"""Write the generated parts of the documents; see --help.

docs/environment.md is made whole, from the class docstring and the tables of columns, and so is
docs/calibration.md, from the calibrations that the package carries. In the other pages what stands
between ``<!-- name:begin -->`` and ``<!-- name:end -->`` is replaced. With
``--results results.json`` the README's tables of results and docs/board.md are filled too.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
from dataclasses import fields
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from laps_env import policies
from laps_env.catalog import list_rules
from laps_env.envs.replay import SpecDecodeReplay
from laps_env.evaluation.results import Results, Row, read_results
from laps_env.policies import Parameter
from laps_env.policies._registry import get_rule, tuned_settings
from laps_env.report.leaderboard import leaderboard, leaderboard_table
from laps_env.report.tables import families_of, markdown_table
from laps_env.sim.costs import CostModel
from laps_env.sim.observation import QUEUE_COLUMNS, SERVER_COLUMNS, Column
from laps_env.utils.files import write_beside
from laps_env.workloads.predictors import RECORDED
from laps_env.workloads.scenarios import (
    Scenario,
    get_cost,
    get_scenario,
    list_costs,
    list_scenarios,
)

ROOT = Path(__file__).resolve().parent.parent

#: Policies of the README's tables, where the results have them.
MAIN_POLICIES = (
    "fcfs",
    "las_tuned",
    "sprpt_tuned",
    "laps_sd",
    "bayes_srpt_tuned",
    "gittins_tuned",
    "learned",
    "learned_index",
    "oracle_srpt",
)
RESULTS_LOAD = 0.9

ENVIRONMENT_PAGE = """# The environment

Written by `python scripts/make_docs.py` from the docstring of
`laps_env.envs.replay.SpecDecodeReplay` and the columns of `laps_env.sim.observation`; edit those.

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


CALIBRATION_PAGE = """# Calibration

<!-- Written by scripts/make_docs.py from laps_env/data/calibrations. -->

`laps-env calibrate` times what a round of the live engine does, over a grid of batch, draft
length and context, and fits the ten constants of the cost model ([physics.md](physics.md)) by
non-negative least squares on relative errors. The error of each term is that on cells of the grid
which the fit has not seen.

<!-- not run: the demo's models -->
```sh
make demo-models
.venv/bin/laps-env calibrate --out calibration.json --plot calibration.png
```

What the numbers mean and where they stop:

- A prefill's time holds the drafter's own prefill too. Decode rounds run over scattered slots, as a
  scheduler leaves them.
- `overhead_ns` is what a round takes outside its draft and its verification; the host's work inside
  them cannot be told apart and is in `target_pass_ns` and `draft_step_ns`.
- The formula is linear. A real pass is not where a processor's caches are left or its matrix
  kernels change; the held-out errors show how much.
- On a shared machine the whole level drifts: calibrate on the day of the comparison
  ([fidelity.md](fidelity.md)).

`read_calibration` of `laps_env.sim.calibration_file` makes a `CostModel` of such a file, and a
scenario names one of the package's by `cost` ([scenarios.md](scenarios.md)).

{calibrations}
"""


def columns_table(columns: tuple[Column, ...]) -> str:
    """Index, name, unit, bound and meaning of each column."""
    return markdown_table(
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
    models = {name: get_cost(name) for name in list_costs()}
    names = [f.name for f in fields(CostModel) if f.name != "source"]
    rows = [[f"`{n}`", *(f"{getattr(m, n):,.10g}" for m in models.values())] for n in names]
    return markdown_table(["constant (ns)", *(f"`{name}`" for name in models)], rows)


def calibration_page() -> str:
    """docs/calibration.md: what was measured on which device, and how well the formula fits."""
    parts = []
    for path in sorted((files("laps_env") / "data" / "calibrations").iterdir(), key=str):
        found = json.loads(path.read_text(encoding="utf-8"))
        device, software, apart = found["device"], found["software"], found["two_token_rates"]
        errors = [
            [
                term,
                str(error["samples"]),
                f"{error['mean']:.1%}",
                f"{error['p90']:.1%}",
                f"{apart['errors'][term]['mean']:.1%}",
            ]
            for term, error in found["errors"].items()
        ]
        batches = sorted({row["batch"] for row in found["grid"]})
        contexts = sorted({row["context"] for row in found["grid"]})
        name = path.name.removesuffix(".json")
        parts += [
            f"## `{name}`",
            f"{found['models']['target']} with {found['models']['draft']}, {found['dtype']}, on "
            f"{device['name']} ({device['threads']} threads of {device['cores']} cores), "
            f"{found['created']}; torch {software['torch']}, transformers "
            f"{software['transformers']}. {len(found['grid'])} measured rows: batches {batches}, "
            f"contexts {contexts}, trimmed means of {found['repeats']} repetitions.",
            f"![measured against fitted](calibration-{name}.png)",
            markdown_table(
                ["constant", "ns"],
                [[f"`{n}`", f"{value:,.1f}"] for n, value in found["cost"].items()],
            ),
            markdown_table(
                ["term", "held-out samples", "mean error", "p90", "mean error, two token rates"],
                errors,
            ),
            "Verified and prefilled tokens share one rate in the formula; apart they are "
            f"{apart['verify_token_ns']:,.0f} and {apart['prefill_token_ns']:,.0f} ns.",
        ]
    return CALIBRATION_PAGE.format(calibrations="\n\n".join(parts))


def scenario_numbers(scenario: Scenario) -> list[str]:
    """Lengths and acceptance over 2,000 requests of the *reference* set, saturation as stored."""
    workload = scenario.workload(load=1.0, num_requests=2000, split="calibration")
    n = scenario.server.reference_draft_length
    position, end = workload.offset[:-1].copy(), workload.offset[1:]
    accepted = rounds = 0
    while (running := position < end).any():
        position, end = position[running], end[running]
        hits = np.minimum(workload.accepted_length[position], n).astype(np.int64)
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
    return markdown_table(
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
    for name, spec in ((n, get_rule(n)) for n in list_rules()):
        if f"{name}_tuned" in policies.list_policies():
            tuned = tuned_settings(name, "all")
            rows += [parameter_row(name, parameter, tuned) for parameter in spec.parameters]
    return markdown_table(
        ["rule", "parameter", "default", "source", "tuned", "range", "meaning"], rows
    )


def results_board(results: Results) -> str:
    """All policies over all scenarios and loads."""
    first = results.rows[0]
    scenarios = {row.scenario for row in results.rows}
    loads = dict.fromkeys(str(row.load) for row in results.rows)
    return (
        f"{len(scenarios)} scenarios at loads {' and '.join(loads)}, {first.episodes} workloads of "
        f"{first.num_requests} requests each; simulator version {results.simulator}.\n\n"
        f"{leaderboard_table(leaderboard([results]))}"
    )


def results_tables(results: Results) -> str:
    """Ratio, p99 and gap closed of the main policies, a row per scenario, by family."""
    rows = [row for row in results.rows if row.load == RESULTS_LOAD]
    if not rows:
        raise ValueError(f"results: expected rows at load {RESULTS_LOAD}, got none")
    first, reference = rows[0], results.reference
    by_family = groupby(
        sorted(rows, key=lambda row: not row.family.startswith("recorded")),
        key=lambda row: row.family,
    )
    return "\n\n".join(
        [
            f"![Mean latency of each policy relative to {reference}](results.png)",
            f"Load {RESULTS_LOAD}, {first.episodes} workloads of {first.num_requests} requests, "
            f"simulator version {results.simulator}. First mean latency / that of `{reference}` "
            "(95 % bootstrap interval over workloads), then p99 latency in seconds (mean over "
            f"workloads) / gap closed, from 0 = `{reference}` to 1 = `{results.oracle}` (n/a: too "
            "small a gap to divide).",
            *(family_tables(family, list(own), reference) for family, own in by_family),
            "Scenarios and loads in which a policy's mean latency is better than / tied with / "
            f"worse than that of `{reference}` (95 % interval), by family:",
            standing_table(results),
        ]
    )


def family_tables(family: str, rows: list[Row], reference: str) -> str:
    """The two tables of one family of scenarios."""
    cells = {(row.scenario, row.policy): row for row in rows}
    scenarios = list(dict.fromkeys(scenario for scenario, _ in cells))
    shown = {policy for _, policy in cells}
    names = [name for name in MAIN_POLICIES if name in shown]

    def part(cell: Any, policies_shown: list[str]) -> str:
        body = [
            [s, *(cell(cells[s, p]) if (s, p) in cells else "-" for p in policies_shown)]
            for s in scenarios
        ]
        return markdown_table(["scenario", *(f"`{p}`" for p in policies_shown)], body)

    error = rows[0].predictor_error
    told = "of a length model" if error == RECORDED else f"with an error of sd {error} (log)"
    return "\n\n".join(
        [
            f"**{family[0].upper()}{family[1:]}**, length predictions {told}:",
            part(ratio_cell, names),
            part(tail_cell, [*names, reference] if reference in shown else names),
        ]
    )


def ratio_cell(row: Row) -> str:
    """Ratio with its interval."""
    low, high = row.ratio_ci95 or (np.nan, np.nan)
    return f"{row.ratio_to_reference:.2f} ({low:.2f}-{high:.2f})"


def tail_cell(row: Row) -> str:
    """p99 latency and gap closed."""
    gap = "n/a" if row.gap_closed is None else f"{row.gap_closed:.2f}"
    return f"{row.p99_latency_s:.1f} / {gap}"


def standing_table(results: Results) -> str:
    """How often each policy beats the reference, by family; a win in one alone is named."""
    standing = families_of(results)
    names = list(dict.fromkeys(family for _, family, *_ in standing))
    tallies = {(policy, family): tally for policy, family, tally, _ in standing}
    alone = {policy: family for policy, family, _, only in standing if only}
    body = [
        [f"`{policy}`", *(tallies.get((policy, f), "-") for f in names), alone.get(policy, "")]
        for policy in dict.fromkeys(policy for policy, *_ in standing)
    ]
    return markdown_table(["policy", *names, "wins in one alone"], body)


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
    pages = {
        ROOT / "docs" / "environment.md": environment_page(),
        ROOT / "docs" / "calibration.md": calibration_page(),
    }
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
            results = read_results(arguments.results)
            pages[readme] = with_part(text, "results", results_board(results))
            board = ROOT / "docs" / "board.md"
            tables = f"{results_board(results)}\n\n{results_tables(results)}"
            pages[board] = with_part(board.read_text(encoding="utf-8"), "board", tables)
        except (OSError, ValueError) as reason:
            parser.error(f"--results: {reason}")
    for path, text in pages.items():
        write_beside(path, [text.encode()])
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
