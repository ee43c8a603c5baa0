"""How far the results of the LAPS-SD paper (arXiv 2505.17074) are met here: docs/reproduction.md.

Three questions: by how much LAPS-SD lowers the mean latency against each baseline (the paper: about
39 % against the state of the art), how wrong its estimate of the execution time is (the paper:
6.84 % overall), and how much each parameter that the paper leaves open matters.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

import policies
from laps_env.evaluation.episodes import evaluate_episode
from laps_env.evaluation.statistics import ratio_with_interval
from laps_env.layout import DRAFT_LENGTH, DRAFT_STEP_S, SERVER_COLUMNS, VERIFY_S
from laps_env.scenarios import Scenario, get_scenario, list_scenarios
from laps_env.workloads import Workload
from policies.laps_sd import estimated_time

BASELINES = ("fcfs", "sjf", "sprpt", "trail", "las", "fastserve", "vllm_ltr")
CONTENDERS = ("laps_sd", "laps_sd_tuned")
SWEPT_SCENARIOS = ("mixed-serial", "specbench-serial")
ROUNDS_SEEN = (1, 2, 5, 10, 20, 40, 80)
PREDICTOR_ERRORS = (0.0, 0.3, 0.5, 0.8)

PAPER_REDUCTION = 0.39
PAPER_ESTIMATE_ERROR = 0.0684


@dataclass(frozen=True)
class Options:
    """What is run."""

    episodes: int = 20
    num_requests: int = 1000
    loads: tuple[float, ...] = (0.7, 0.9)
    out: Path = Path("docs/reproduction.md")


Latencies = np.ndarray
Item = TypeVar("Item")
Result = TypeVar("Result")


def mean_latencies(
    name: str, scenario: Scenario, workloads: list[Workload], **settings: float
) -> Latencies:
    """Mean latency of a policy on each workload, seconds."""
    policy = policies.make(name, scenario, **settings)
    return np.array([evaluate_episode(policy, w, scenario)["mean_latency_s"] for w in workloads])


def draw(scenario: Scenario, load: float, set_tag: str, options: Options) -> list[Workload]:
    """The first workloads of a set."""
    return [
        scenario.workload(load=load, num_requests=options.num_requests, set_tag=set_tag, seed=seed)
        for seed in range(options.episodes)
    ]


# -- latency against each baseline ----------------------------------------------------------------


def reductions(scenario_name: str, load: float, options: Options) -> dict[str, Latencies]:
    """Mean latencies of LAPS-SD and of every baseline on the *final* workloads."""
    scenario = get_scenario(scenario_name)
    workloads = draw(scenario, load, "final", options)
    return {n: mean_latencies(n, scenario, workloads) for n in (*CONTENDERS, *BASELINES)}


def reduction_tables(options: Options) -> tuple[str, dict[str, float]]:
    """Markdown tables, and the mean reduction of the tuned LAPS-SD per baseline (serial, 0.9)."""
    cells = [(name, load) for name in list_scenarios() for load in options.loads]
    measured = in_parallel(lambda cell: reductions(*cell, options), cells)
    lines = [
        "| scenario | load | LAPS-SD | " + " | ".join(BASELINES) + " |",
        "|---|---|---|" + "---|" * len(BASELINES),
    ]
    serial: dict[str, list[float]] = {name: [] for name in BASELINES}
    for (scenario, load), latencies in zip(cells, measured, strict=True):
        for contender in CONTENDERS:
            entries = []
            for baseline in BASELINES:
                ratio, interval = ratio_with_interval(latencies[contender], latencies[baseline])
                low, high = interval or (ratio, ratio)
                entries.append(f"{1 - ratio:+.0%} ({1 - high:+.0%}, {1 - low:+.0%})")
                if contender == "laps_sd_tuned" and load == 0.9 and scenario.endswith("-serial"):
                    serial[baseline].append(1 - ratio)
            label = "tuned" if contender.endswith("tuned") else "default"
            lines.append(f"| {scenario} | {load} | {label} | " + " | ".join(entries) + " |")
    return "\n".join(lines), {name: float(np.mean(v)) for name, v in serial.items() if v}


# -- the estimate of T ----------------------------------------------------------------------------


def estimate_errors(scenario: Scenario, predictor_error: float, options: Options) -> list[str]:
    """Median and mean of |estimated / true remaining time - 1| by rounds seen, as table cells."""
    workload = scenario.workload(
        load=0.9,
        num_requests=options.num_requests,
        set_tag="final",
        predictor_error=predictor_error,
    )
    server = nominal_server_view(scenario)
    n = int(server[DRAFT_LENGTH])
    round_s = n * server[DRAFT_STEP_S] + server[VERIFY_S]
    errors: dict[int, list[float]] = {k: [] for k in ROUNDS_SEEN}
    for i in range(workload.num_requests):
        length, runs = int(workload.output_tokens[i]), workload.accept_run[workload.offset[i] :]
        generated, accepted, history = 0, 0, []
        while generated < length:
            run = min(int(runs[generated]), n)
            accepted += run
            generated = min(generated + run + 1, length)
            history.append((generated, accepted))
        for seen in ROUNDS_SEEN:
            if seen < len(history):
                generated, accepted = history[seen - 1]
                tokens = max(workload.predicted_tokens[i] - generated, 1.0)
                estimate = estimated_time(server, tokens, accepted / (n * seen))
                errors[seen].append(abs(estimate / ((len(history) - seen) * round_s) - 1))
    return [
        f"{np.median(errors[k]):.0%} / {np.mean(errors[k]):.0%}" if errors[k] else "-"
        for k in ROUNDS_SEEN
    ]


def nominal_server_view(scenario: Scenario) -> np.ndarray:
    """The observation's server part with the durations that the cost model says for one request."""
    cost, n = scenario.server.cost, scenario.server.reference_draft_length
    view = np.zeros(len(SERVER_COLUMNS), np.float32)
    view[DRAFT_LENGTH] = n
    view[DRAFT_STEP_S] = (cost.draft_step_ns + cost.draft_token_ns) * 1e-9
    verify = cost.overhead_ns + cost.target_pass_ns + cost.target_token_ns * (n + 1)
    view[VERIFY_S] = verify * 1e-9
    return view


def estimate_table(options: Options) -> str:
    """Markdown table over scenarios and predictor errors."""
    lines = [
        "| scenario | predictor error | " + " | ".join(f"{k} rounds" for k in ROUNDS_SEEN) + " |",
        "|---|---|" + "---|" * len(ROUNDS_SEEN),
    ]
    for name in SWEPT_SCENARIOS:
        for error in PREDICTOR_ERRORS:
            cells = estimate_errors(get_scenario(name), error, options)
            lines.append(f"| {name} | {error} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# -- what the paper leaves open -------------------------------------------------------------------


def sweep_values() -> dict[str, list[float]]:
    """Values of each assumed parameter of the rule, its range from end to end."""
    values = {}
    for p in policies.SPECS["laps_sd"].parameters:
        if p.high - p.low <= 1 and p.integer:
            grid = np.array([p.low, p.high])
        elif p.log:
            grid = np.geomspace(p.low, p.high, 6)
        else:
            grid = np.linspace(p.low, p.high, 6)
        values[p.name] = sorted({float(round(v)) if p.integer else float(f"{v:.3g}") for v in grid})
    return values


def sweep_table(options: Options) -> str:
    """Latency relative to the default setting, one parameter at a time, on the *tune* set."""
    lines = [
        "| parameter | values | "
        + " | ".join(f"{s}, load {load}" for s in SWEPT_SCENARIOS for load in options.loads)
        + " |",
        "|---|---|" + "---|" * (len(SWEPT_SCENARIOS) * len(options.loads)),
    ]
    columns = [
        (get_scenario(name), draw(get_scenario(name), load, "tune", options))
        for name in SWEPT_SCENARIOS
        for load in options.loads
    ]
    base = [mean_latencies("laps_sd", s, w).sum() for s, w in columns]

    def cell(name: str, value: float, column: int) -> float:
        scenario, workloads = columns[column]
        if name == "acceptance_window":
            server = scenario.server.with_changes(acceptance_window=int(value))
            return mean_latencies("laps_sd", replace(scenario, server=server), workloads).sum()
        return mean_latencies("laps_sd", scenario, workloads, **{name: value}).sum()

    swept = {**sweep_values(), "acceptance_window": [2.0, 5.0, 10.0, 20.0, 40.0]}
    for name, values in swept.items():
        tasks = [(name, value, k) for k in range(len(columns)) for value in values]
        ratios = in_parallel(lambda t: cell(*t) / base[t[2]], tasks)
        by_column = np.array(ratios).reshape(len(columns), len(values))
        shown = " | ".join(" ".join(f"{r:.3f}" for r in row) for row in by_column)
        lines.append(f"| `{name}` | {' '.join(f'{v:g}' for v in values)} | {shown} |")
    return "\n".join(lines)


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The kernel releases the interpreter lock, so threads use all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, items))


# -- the page -------------------------------------------------------------------------------------

PAGE = """# Reproduction of LAPS-SD

Written by `python scripts/reproduce_paper.py` ({episodes} workloads of {requests} requests in each
cell, predictor error 0.5 unless said). The paper: Li, Chen, Li, arXiv 2505.17074, IJCAI 2025. Its
code, models, arrival rates, draft length, queue thresholds and stability test could not be read, so
every one of them is a named parameter here, and this page says how much each matters.

## Verdict

**39 % lower mean latency.** {verdict_latency}

**6.84 % error of the estimated execution time.** {verdict_estimate}

## Reduction of the mean latency by LAPS-SD

1 - (LAPS-SD / baseline), ratio of summed latencies on shared *final* workloads, with the 95 %
bootstrap interval over workloads. Positive: LAPS-SD is faster. The baselines have their published
or default constants; `make evaluate` shows them tuned.

{reductions}

## Error of the estimate of T

|estimated / true remaining execution time - 1| after so many rounds of a request, median / mean
over the requests that go on, alone on the server. The predictor error is the standard deviation of
log(predicted / true length); 0 isolates the error of the acceptance rate.

{estimates}

## What the paper leaves open

Mean latency relative to the default setting, one parameter at a time, on the *tune* set
(`acceptance_window` is the window of the stability test, in rounds).

{sweep}
"""


def verdict_on_latency(reduction: dict[str, float]) -> str:
    """What the serial scenarios at load 0.9 say about the 39 %."""
    met = [n for n, r in reduction.items() if r >= PAPER_REDUCTION]
    parts = ", ".join(f"{n} {r:+.0%}" for n, r in reduction.items())
    against = ", ".join(met) if met else "none of the baselines"
    return (
        f"At load 0.9 on the serial scenarios (the paper's setting) the tuned LAPS-SD changes the "
        f"mean latency by: {parts} (positive: lower). A reduction of 39 % or more is seen against "
        f"{against}: the baselines that know nothing of lengths. Against the rules that use the "
        "same length predictions the gain is small or negative, so the figure depends on which "
        "baselines are called the state of the art, and on the load."
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=Options.episodes)
    parser.add_argument("--out", type=Path, default=Options.out)
    arguments = parser.parse_args()
    if arguments.episodes < 2:
        parser.error(f"--episodes: expected at least 2, got {arguments.episodes}")
    options = Options(episodes=arguments.episodes, out=arguments.out)
    table, serial = reduction_tables(options)
    known = estimate_errors(get_scenario(SWEPT_SCENARIOS[0]), 0.0, options)
    typical = estimate_errors(get_scenario(SWEPT_SCENARIOS[0]), 0.5, options)
    seen = ROUNDS_SEEN.index(20)
    page = PAGE.format(
        episodes=options.episodes,
        requests=options.num_requests,
        verdict_latency=verdict_on_latency(serial),
        verdict_estimate=(
            f"On {SWEPT_SCENARIOS[0]} the estimate of what remains after 20 rounds is off by "
            f"{known[seen]} (median / mean) when the length is known exactly, and by "
            f"{typical[seen]} with a predictor error of 0.5. The paper's "
            f"{PAPER_ESTIMATE_ERROR:.2%} is below both: acceptance alone, with the length known, "
            "costs more here, because the rate of a request keeps changing while it runs."
        ),
        reductions=table,
        estimates=estimate_table(options),
        sweep=sweep_table(options),
    )
    beside = options.out.with_suffix(".new")
    beside.write_text(page, encoding="utf-8")
    beside.replace(options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
