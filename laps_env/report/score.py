"""The score of one rule, for a search that writes rules: a number with its interval, or why none.

The rule's file may do nothing but define a rule (`laps_env.policies.base.closed_rule`), and runs in
a process of its own that is ended after a time.
"""

from __future__ import annotations

from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Literal

from laps_env.evaluation.grid import Grid
from laps_env.evaluation.runner import Evaluation
from laps_env.policies import make
from laps_env.policies.base.closed_rule import check_closed
from laps_env.policies.base.rule_from_file import file_of, is_rule_file
from laps_env.report.leaderboard import leaderboard

Goal = Literal["mean_latency", "p99_latency", "slo_attainment"]


def score(grid: Grid, goal: Goal, seconds: float) -> dict[str, Any]:
    """The score of a grid's one policy.

    Args:
        grid: Policy, a rule's file, and workloads.
        goal: What is scored: mean or p99 latency over the reference's, or the share of the limits
            that it missed. Lower is better.
        seconds: Time that importing, compiling and playing may take, > 0.

    Returns:
        ``score`` with ``score_ci95`` (None for limits), and what else was measured; or ``score``
        None, and ``error``.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send_score, args=(theirs, grid, goal), daemon=True)
    process.start()
    theirs.close()
    try:
        if ours.poll(seconds):
            return dict(ours.recv())
        return _none(grid, f"expected an end within {seconds:g} s, got none")
    except EOFError:
        process.join()
        return _none(grid, f"its process ended with status {process.exitcode}")
    finally:
        process.kill()


def _none(grid: Grid, reason: str) -> dict[str, Any]:
    return {"rule": grid.policies[0], "score": None, "error": reason}


def _send_score(pipe: Connection, grid: Grid, goal: Goal) -> None:
    try:
        pipe.send(_score(grid, goal))
    except (ValueError, OSError) as reason:
        pipe.send(_none(grid, str(reason)))


def _score(grid: Grid, goal: Goal) -> dict[str, Any]:
    (name,) = grid.policies
    if not is_rule_file(name):
        raise ValueError(f"rule: expected a rule's file (rule.py:SPEC), got {name!r}")
    check_closed(file_of(name))
    make(name)  # says what is wrong with it before anything is played
    evaluation = Evaluation(grid)
    evaluation.run()
    results = evaluation.results()
    (found,) = (s for s in leaderboard([results]) if s.policy == name)
    scores: dict[Goal, tuple[float | None, Any]] = {
        "mean_latency": (found.mean, found.mean_ci95),
        "p99_latency": (found.tail, found.tail_ci95),
        "slo_attainment": (None if found.attainment is None else 1 - found.attainment, None),
    }
    value, interval = scores[goal]
    if value is None:
        raise ValueError(f"{goal}: expected scenarios with limits, got none")
    own = [row for row in results.rows if row.policy == name]
    return {
        "rule": name,
        "score": value,
        "score_ci95": interval,
        "goal": goal,
        "mean_latency": found.mean,
        "mean_latency_ci95": found.mean_ci95,
        "p99_latency": found.tail,
        "p99_latency_ci95": found.tail_ci95,
        "slo_attainment": found.attainment,
        "places": {row.place: row.ratio_to_reference for row in own},
        "reference": grid.reference,
        "simulator": results.simulator,
    }
