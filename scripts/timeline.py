"""What happens to each request: a page that compares policies on one workload, and Chrome traces.

    python scripts/timeline.py --policies fcfs,laps_sd --seed 0 --out timeline.html
    python scripts/timeline.py --results results.json --policies laps_sd_tuned,learned --seed 3

The page opens in any browser and loads nothing; the traces beside it, one a policy, open in
https://ui.perfetto.dev. The workload is that of this seed in the *test* split, as in an evaluation;
with a results file it is the one that was evaluated, with its recordings, parameters and slots.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from laps_env.cli.messages import errors_as_messages
from laps_env.cli.options import parse_load
from laps_env.evaluation.grid import TEST_SEEDS
from laps_env.evaluation.results import read_results
from laps_env.report.timeline import Timeline, record_policy, record_row
from laps_env.report.timeline_page import check_timelines, write_timelines

REQUESTS = 100


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenario", default="chat-serial-135m")
    parser.add_argument("--policies", default="fcfs,laps_sd", help="names with commas")
    parser.add_argument("--load", type=parse_load, default=0.9, help="share of saturation")
    parser.add_argument("--requests", type=int, help=f"without --results (default: {REQUESTS})")
    parser.add_argument("--seed", type=int, default=TEST_SEEDS.start)
    parser.add_argument("--results", type=Path, help="a results file that has the episode")
    parser.add_argument("--out", type=Path, default=Path("timeline.html"), help="the page")
    given = parser.parse_args(argv)
    names = list(dict.fromkeys(name.strip() for name in given.policies.split(",") if name.strip()))
    with errors_as_messages(parser):
        check_timelines(given.out, names, given.results)
        timelines = record(given, names) if given.results is None else find(given, names)
        requests = len(timelines[0].requests) if timelines else 0
        title = f"{given.scenario}, load {given.load}, {requests} requests, seed {given.seed}"
        if given.results is not None:
            title += f", {given.results.name}"
        print("\n".join(map(str, write_timelines(timelines, given.out, title))))


def record(given: argparse.Namespace, names: list[str]) -> list[Timeline]:
    """The timelines of policies on a scenario of the package."""
    options: dict[str, Any] = {
        "scenario": given.scenario,
        "load": given.load,
        "num_requests": REQUESTS if given.requests is None else given.requests,
        "split": "test",
    }
    return [record_policy(name, given.seed, **options) for name in names]


def find(given: argparse.Namespace, names: list[str]) -> list[Timeline]:
    """The timelines of an episode of a results file.

    Raises:
        ValueError: the file has no such episode, or it cannot be run again.
    """
    if given.requests is not None:
        raise ValueError(f"requests: expected none beside a results file, got {given.requests}")
    results = read_results(given.results)
    try:
        rows = [results.find(given.scenario, given.load, name) for name in names]
        return [record_row(row, row.episode_of(given.seed)) for row in rows]
    except ValueError as error:
        raise ValueError(f"{given.results}: {error}") from None


if __name__ == "__main__":
    main()
