"""Write the generated parts of the documents: what stands between ``<!-- name:begin -->`` and end.

They come from docstrings and the package's data; the tables of results are those of
`scripts/make_board.py`.
"""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

from laps_env.catalog import list_policies, list_rules
from laps_env.envs.replay import SpecDecodeReplay
from laps_env.policies import Parameter, get_rule
from laps_env.policies._registry import tuned_settings
from laps_env.report.tables import markdown_table
from laps_env.sim.costs import CostModel
from laps_env.sim.observation import QUEUE_COLUMNS, SERVER_COLUMNS, Column
from laps_env.utils.files import write_beside
from laps_env.workloads.numbers import numbers_of
from laps_env.workloads.scenario_file import get_cost, list_costs
from laps_env.workloads.scenarios import Scenario, get_scenario, list_scenarios

ROOT = Path(__file__).resolve().parent.parent


def environment() -> str:
    """Docstring of the environment, ``Args:`` and ``Raises:`` as lists."""
    text = inspect.cleandoc(SpecDecodeReplay.__doc__ or "")
    text, *sections = re.split(r"^(?=(?:Args|Raises):$)", text, flags=re.MULTILINE)
    for section in sections:
        heading, _, entries = section.partition("\n")
        entries = re.sub(r"^    (\w+): ", r"- `\1`: ", entries, flags=re.MULTILINE)
        text += f"{heading}\n\n" + re.sub(r"^ +", "  ", entries, flags=re.MULTILINE)
    return text


def columns_table(columns: tuple[Column, ...]) -> str:
    """Index, name, unit, bound and meaning of each column."""
    return markdown_table(
        ["index", "name", "unit", "at least", "at most", "meaning"],
        [
            [i, f"`{c.name}`", c.unit, f"{c.low:g}", f"{c.high:g}", c.meaning]
            for i, c in enumerate(columns)
        ],
    )


def costs_table() -> str:
    """Constants of every cost model."""
    models = {name: get_cost(name) for name in list_costs()}
    names = [f.name for f in fields(CostModel) if f.name != "source"]
    rows = [[f"`{n}`", *(f"{getattr(m, n):,.10g}" for m in models.values())] for n in names]
    return markdown_table(["constant (ns)", *(f"`{name}`" for name in models)], rows)


def calibrations() -> str:
    """Measurements of the package's calibrations, and how well the formula fits them."""
    folder = files("laps_env") / "data" / "calibrations"
    return "\n\n".join(
        calibration(path.name.removesuffix(".json"), path.read_text(encoding="utf-8"))
        for path in sorted(folder.iterdir(), key=str)
    )


def calibration(name: str, text: str) -> str:
    """One calibration: device, constants, held-out errors."""
    found = json.loads(text)
    device, software, apart = found["device"], found["software"], found["two_token_rates"]
    models, grid = found["models"], found["grid"]
    batches, contexts = (sorted({cell[key] for cell in grid}) for key in ("batch", "context"))
    constants = [[f"`{constant}`", f"{value:,.1f}"] for constant, value in found["cost"].items()]
    errors = [
        [term, e["samples"], *(f"{x:.1%}" for x in (e["mean"], e["p90"], two["mean"]))]
        for (term, e), two in zip(found["errors"].items(), apart["errors"].values(), strict=True)
    ]
    return "\n\n".join(
        [
            f"## `{name}`",
            f"{models['target']} with {models['draft']}, {found['dtype']}, on {device['name']} "
            f"({device['threads']} threads of {device['cores']} cores), {found['created']}; torch "
            f"{software['torch']}, transformers {software['transformers']}. {len(grid)} measured "
            f"rows: batches {batches}, contexts {contexts}, trimmed means of {found['repeats']} "
            "repetitions.",
            f"![measured against fitted](calibration-{name}.png)",
            markdown_table(["constant", "ns"], constants),
            markdown_table(
                ["term", "held-out samples", "mean error", "p90", "mean error, two token rates"],
                errors,
            ),
            "Verified and prefilled tokens share one rate in the formula; apart they are "
            f"{apart['verify_token_ns']:,.0f} and {apart['prefill_token_ns']:,.0f} ns.",
        ]
    )


def scenarios_table() -> str:
    """Numbers of the named scenarios."""
    headings = (
        "scenario|batch|draft length n|mean prompt tokens|mean output tokens|A|tokens / round|"
        "saturation (requests/s, test)|what it is"
    )
    return markdown_table(
        headings.split("|"), [scenario_numbers(get_scenario(name)) for name in list_scenarios()]
    )


def scenario_numbers(scenario: Scenario) -> list[object]:
    """Lengths and acceptance, stored saturation."""
    numbers = numbers_of(scenario)
    return [
        f"`{scenario.name}`",
        scenario.server.batch_size,
        scenario.server.reference_draft_length,
        f"{numbers.prompt_tokens:.0f}",
        f"{numbers.output_tokens:.0f}",
        f"{numbers.acceptance:.3f}",
        f"{numbers.tokens_per_round:.2f}",
        f"{scenario.saturation('test'):.4f}",
        scenario.description,
    ]


def parameters_table() -> str:
    """Parameters of all rules, with the setting chosen over all scenarios where there is one."""
    return markdown_table(
        ["rule", "parameter", "default", "source", "tuned", "range", "meaning"],
        [
            parameter_cells(rule, parameter)
            for rule in list_rules()
            for parameter in get_rule(rule).parameters
        ],
    )


def parameter_cells(rule: str, parameter: Parameter) -> list[str]:
    """Cells of one parameter."""
    kind = ", log" * parameter.log + ", integer" * parameter.integer
    tuned = f"{rule}_tuned" in list_policies()
    return [
        f"`{rule}`",
        f"`{parameter.name}`",
        f"{parameter.default:g}",
        parameter.source,
        f"{tuned_settings(rule, 'all')[parameter.name]:g}" if tuned else "-",
        f"{parameter.low:g} .. {parameter.high:g}{kind}",
        parameter.meaning,
    ]


def with_part(page: str, name: str, content: str) -> str:
    """The page with what stands between the markers of ``name`` replaced."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"expected one pair of markers {begin} {end}")
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}\n{content}\n{end}{after}"


def filled(page: str, **parts: str) -> tuple[Path, str]:
    """Path and text of a page with these parts, by the names of their markers."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, content in parts.items():
        text = with_part(text, name, content)
    return ROOT / page, text


def generated_pages() -> dict[Path, str]:
    """Every page with parts from the package, as it should be; results stay as they are."""
    columns = {"queue": columns_table(QUEUE_COLUMNS), "server": columns_table(SERVER_COLUMNS)}
    return dict(
        (
            filled("docs/environment.md", environment=environment(), **columns),
            filled("docs/calibration.md", calibrations=calibrations()),
            filled("docs/physics.md", costs=costs_table()),
            filled("docs/scenarios.md", scenarios=scenarios_table()),
            filled("docs/policies.md", parameters=parameters_table()),
        )
    )


def main() -> None:
    """Write them all."""
    for path, text in generated_pages().items():
        write_beside(path, [text.encode()])
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
