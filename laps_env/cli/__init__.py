"""The command ``laps-env``: finds the sub-command, reads its options, runs it, tells its errors.

Modules of sub-commands are light: what does their work is imported when they run.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from laps_env.cli.advise import Advise
from laps_env.cli.board import Board
from laps_env.cli.calibrate import Calibrate
from laps_env.cli.check import Check
from laps_env.cli.command import Command, one_line, parse
from laps_env.cli.evaluate import Evaluate
from laps_env.cli.fidelity import Fidelity
from laps_env.cli.fit_traffic import FitTraffic
from laps_env.cli.import_ import Import
from laps_env.cli.list_ import List
from laps_env.cli.record import Record
from laps_env.cli.report import Report
from laps_env.cli.scenario import Scenario
from laps_env.cli.score import Score
from laps_env.cli.sweep import Sweep
from laps_env.cli.timeline import Timeline
from laps_env.cli.train import Train
from laps_env.cli.tune import Tune

COMMANDS: dict[str, type[Command]] = {
    "list": List,
    "scenario": Scenario,
    "evaluate": Evaluate,
    "advise": Advise,
    "check": Check,
    "board": Board,
    "report": Report,
    "timeline": Timeline,
    "import": Import,
    "train": Train,
    "sweep": Sweep,
    "tune": Tune,
    "score": Score,
    "record": Record,
    "calibrate": Calibrate,
    "fit-traffic": FitTraffic,
    "fidelity": Fidelity,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a sub-command and exit: 0 done, 1 done but not well, 2 bad input, 130 interrupted.

    Args:
        arguments: Words after ``laps-env``, by default those of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (given[0], given[1:]) if given else ("--help", [])
    if name in ("-h", "--help"):
        print(overview())
        return
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=3) or COMMANDS
        sys.exit(_failed(f"expected a command, got {name!r}; did you mean {' or '.join(near)}?"))
    with warnings.catch_warnings():
        warnings.showwarning = _warn  # type: ignore[assignment] # takes whatever comes after
        status = _run(name, rest)
    if status:
        sys.exit(status)


def _run(name: str, words: list[str]) -> int:
    """Run a sub-command; its exit status."""
    command: Command | None = None
    try:
        command = parse(COMMANDS[name], words, f"laps-env {name}")
        return command.run()
    except BrokenPipeError:  # whoever read has seen enough, `| head` for one
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ImportError, MemoryError, OSError, ValueError) as error:
        return _failed(str(error), name)
    except KeyboardInterrupt as interrupted:
        goes_on = ": the same command goes on where this one was"
        outlook = str(interrupted) or (goes_on if command and command.resumes else "")
        print(f"laps-env {name}: interrupted{outlook}", file=sys.stderr)
        return 130


def _warn(message: Warning | str, *_: Any) -> None:
    """A warning as a user reads it, without the line of code that has it."""
    print(f"laps-env: warning: {message}", file=sys.stderr)


def overview() -> str:
    """Help of the command itself: each sub-command in a line."""
    lines = [
        f"  {name:11} {(kind.__doc__ or '').splitlines()[0]}" for name, kind in COMMANDS.items()
    ]
    return "\n".join(
        [
            "usage: laps-env COMMAND [OPTIONS]",
            "",
            "Scheduling of speculative decoding: environments, policies, evaluation.",
            "",
            *lines,
            "",
            "laps-env COMMAND --help has the options of each, with examples.",
        ]
    )


def _failed(message: str, *name: str) -> int:
    print(f"{' '.join(['laps-env', *name])}: error: {one_line(message)}", file=sys.stderr)
    return 2
