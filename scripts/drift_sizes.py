"""How much traffic shifts: the sizes behind the drift scenarios (docs/scenarios.md).

    python scripts/drift_sizes.py conv.csv code.csv rounds.jsonl.gz questions.jsonl

From the two hours of Azure's logs of 2023 (conversation, code): the deviation of the arrival rate
and of mean log output over blocks of 250 requests, beyond what chance makes of it, the span after
which a shift is forgotten, and the deviation of the log odds of code over five minutes. From a run
of Spec-Bench's questions: the deviation of logit(alpha) between the eight topics of its chat.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np

from laps_env.traces.importers import read_arrivals

#: Requests of a block, seconds of a window.
BLOCK, WINDOW_S = 250, 300.0


def shifts_of_log(path: Path) -> dict[str, float]:
    """Deviations beyond chance over the blocks of a log, and their correlation from one to the
    next."""
    trace = read_arrivals(path)
    blocks = trace.output_tokens.size // BLOCK
    log_output = np.log(np.maximum(trace.output_tokens[: blocks * BLOCK], 1)).reshape(blocks, BLOCK)
    means = log_output.mean(axis=1)
    log_rate = -np.log(np.diff(trace.arrival_ns[: blocks * BLOCK : BLOCK] * 1e-9))
    kept = np.corrcoef(means[:-1], means[1:])[0, 1]
    return {
        "length": float(np.sqrt(max(means.var() - log_output.var(axis=1).mean() / BLOCK, 0.0))),
        "rate": float(np.sqrt(max(log_rate.var() - 1 / BLOCK, 0.0))),
        "span in requests": float(-BLOCK / np.log(kept)) if kept > 0 else 0.0,
    }


def clock_s(path: Path) -> np.ndarray:
    """Times of a log in seconds, by the clock that both logs share."""
    with path.open(encoding="utf-8", newline="") as file:
        stamps = [row["TIMESTAMP"][:26] for row in csv.DictReader(file)]
    return np.array([datetime.fromisoformat(stamp).timestamp() for stamp in stamps])


def shift_of_mix(paths: list[Path]) -> float:
    """Deviation of the log odds of the second log's requests beside the first's."""
    times = [clock_s(path) for path in paths]
    first, last = min(t[0] for t in times), max(t[-1] for t in times)
    edges = np.arange(first, last, WINDOW_S)
    counts = [np.histogram(t, edges)[0] + 0.5 for t in times]
    log_odds = np.log(counts[1] / counts[0])
    chance = (1 / counts[0] + 1 / counts[1]).mean()
    return float(np.sqrt(max(log_odds.var(ddof=1) - chance, 0.0)))


def shift_of_acceptance(rounds: Path, questions: Path) -> float:
    """Deviation of logit(alpha) between the topics of Spec-Bench's chat."""
    lines = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    topic = {line["question_id"]: line["category"] for line in lines}
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    with gzip.open(rounds, "rt", encoding="utf-8") as file:
        for turn in map(json.loads, file):
            if turn["cat"] == "mt_bench":
                hits = np.array(turn["a"]) - 1
                counts[topic[turn["q"]]][0] += int(hits.sum())
                counts[topic[turn["q"]]][1] += int((hits < np.array(turn["g"])).sum())
    return float(np.std([np.log(hits / misses) for hits, misses in counts.values()], ddof=1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", type=Path, nargs=2, help="of conversation and of code, CSV")
    parser.add_argument("rounds", type=Path, help="of Spec-Bench's questions, JSON lines, gzip")
    parser.add_argument("questions", type=Path, help="of Spec-Bench, JSON lines")
    given = parser.parse_args()
    for path in given.logs:
        found = ", ".join(f"{name} {size:.3g}" for name, size in shifts_of_log(path).items())
        print(f"{path.name}: {found}")
    print(f"mix: {shift_of_mix(given.logs):.3g}")
    print(f"acceptance: {shift_of_acceptance(given.rounds, given.questions):.3g}")


if __name__ == "__main__":
    main()
