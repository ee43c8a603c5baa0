"""Damaged cases at every door, counted by outcome; status 1 where one is not a clean error.

A worker process does the cases of a door one after the other: a case that ends the worker is a
crash, one that takes longer than `LIMIT_S` a hang, and the next worker goes on behind it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import laps_env.agents.sweep  # noqa: F401 (what is heavy: here, once for all workers)
from fuzz.doors import DOORS

#: Seconds for a case; and for what is prepared before the first, compilation included.
LIMIT_S, PREPARATION_S = 10, 300

OUTCOMES = ("clean error", "accepted", "traceback", "crash", "hang")
BAD = OUTCOMES[2:]


def main() -> int:
    """Attack; the exit status."""
    options = argparse.ArgumentParser(prog="fuzz", description=__doc__.splitlines()[0])
    options.add_argument("--cases", type=int, default=20_000, help="cases of each door")
    options.add_argument("--seed", type=int, default=0, help="seed of all cases")
    options.add_argument("--first", type=int, default=0, help="first case, to see one again")
    options.add_argument("doors", nargs="*", help=f"all by default: {', '.join(DOORS)}")
    asked = options.parse_args()
    print(f"{'door':18}" + "".join(f"{outcome:>13}" for outcome in OUTCOMES))
    found: dict[str, str] = {}  # the first of a kind
    for door in asked.doors or DOORS:
        counts: Counter[str] = Counter()
        for case, outcome, detail in attacked(door, asked.seed, asked.first, asked.cases):
            counts[outcome] += 1
            if outcome in BAD:
                again = f"{door} --seed {asked.seed} --first {case} --cases 1"
                found.setdefault(f"{door}: {outcome} {detail}", again)
        print(f"{door:18}" + "".join(f"{counts[outcome]:13}" for outcome in OUTCOMES), flush=True)
    for kind, again in found.items():
        print(f"\n{kind}\n  once more: {again}")
    return 1 if found else 0


def attacked(door: str, seed: int, first: int, cases: int) -> Iterator[tuple[int, str, str]]:
    """Number, outcome and detail of each case."""
    case, end = first, first + cases
    while case < end:
        ours, theirs = multiprocessing.Pipe()
        arguments = (theirs, door, seed, case, end)
        worker = multiprocessing.get_context("fork").Process(target=work, args=arguments)
        worker.start()
        theirs.close()
        if not (ours.poll(PREPARATION_S) and ours.recv() == "ready"):
            raise RuntimeError(f"{door}: expected a door that can be prepared")
        while case < end:
            if not ours.poll(LIMIT_S):
                worker.kill()
                yield case, "hang", f"more than {LIMIT_S} s"
                case += 1
                break
            try:
                outcome, detail = ours.recv()
            except EOFError:
                worker.join()
                yield case, "crash", f"exit code {worker.exitcode}"
                case += 1
                break
            yield case, outcome, detail
            case += 1
        worker.join()


def work(connection: Connection, door: str, seed: int, first: int, end: int) -> None:
    """In a process of its own: the cases of a door, each outcome sent when it is known."""
    # Numbers that leave their range are no clean input either.
    warnings.simplefilter("error", RuntimeWarning)
    with tempfile.TemporaryDirectory() as folder:
        attack = DOORS[door](Path(folder))
        connection.send("ready")
        for case in range(first, end):
            said = io.StringIO()
            try:
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                    attack(Random(f"{door} {seed} {case}"))
            except BaseException as error:
                connection.send(outcome_of(error))
            else:
                connection.send(("accepted", ""))


def outcome_of(error: BaseException) -> tuple[str, str]:
    """Outcome of an exception; the place and the class of one that is no clean error."""
    if isinstance(error, OSError) or (isinstance(error, ValueError) and "expected" in str(error)):
        return "clean error", ""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return "traceback", f"{type(error).__name__} in {place.filename}, line {place.lineno}"


if __name__ == "__main__":
    sys.exit(main())
