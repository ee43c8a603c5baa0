"""What happens to each request: a page that compares policies on one workload, and Chrome traces.

    python scripts/timeline.py --policies fcfs,laps_sd --seed 0 --out timeline.html

The page opens in any browser and loads nothing; the traces beside it, one a policy, open in
https://ui.perfetto.dev. The workload is that of this seed in the *final* set, as in an evaluation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from laps_env.evaluation.grid import FINAL_SEEDS
from laps_env.files import check_output, write_beside
from laps_env.timeline import chrome_trace, comparison_page, record_policy


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenario", default="chat-serial")
    parser.add_argument("--policies", default="fcfs,laps_sd", help="names with commas")
    parser.add_argument("--load", type=float, default=0.9, help="share of saturation")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--seed", type=int, default=FINAL_SEEDS.start)
    parser.add_argument("--out", type=Path, default=Path("timeline.html"), help="the page")
    given = parser.parse_args(argv)
    try:
        written = write_timelines(
            [name.strip() for name in given.policies.split(",") if name.strip()],
            given.out,
            scenario=given.scenario,
            load=given.load,
            num_requests=given.requests,
            seed=given.seed,
        )
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print("\n".join(map(str, written)))


def write_timelines(
    names: list[str], page: Path, *, seed: int, scenario: str, load: float, num_requests: int
) -> list[Path]:
    """Record, write the traces and the page; their paths."""
    traces = [page.with_name(f"{page.stem}-{name.replace('/', '-')}.trace.json") for name in names]
    for path in (page, *traces):
        check_output(path)
    options = {"scenario": scenario, "load": load, "num_requests": num_requests}
    timelines = [record_policy(name, seed, set_tag="final", **options) for name in names]
    title = f"{scenario}, load {load}, {num_requests} requests, seed {seed}"
    text = comparison_page(timelines, title)
    for path, timeline in zip(traces, timelines, strict=True):
        write_beside(path, [json.dumps(chrome_trace(timeline)).encode()])
    write_beside(page, [text.encode()])
    return [page, *traces]


if __name__ == "__main__":
    main()
