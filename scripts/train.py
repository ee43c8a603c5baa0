"""Train a scheduler; see --help.

    python scripts/train.py --scenario mixed-serial --minutes 15 --out runs/demo
    python scripts/evaluate.py --policies laps_sd,runs/demo --scenario mixed-serial --loads 0.9

The same command goes on where a run was cut off, or further with a larger budget; a folder of
another run is refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tyro

from agents.ppo import PPOOptions
from agents.runs import Budget, IndexOptions, train

ALGORITHMS = {"ppo": PPOOptions, "index": IndexOptions}


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], add_help=False)
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="ppo")
    parser.add_argument("--out", type=Path, help="folder of the run")
    parser.add_argument("--minutes", type=float, help="budget")
    parser.add_argument("--blocks", type=int, help="budget, instead of minutes")
    given, rest = parser.parse_known_args(argv)
    options = tyro.cli(
        ALGORITHMS[given.algorithm],
        args=rest,
        description=f"{parser.format_help()}\nOptions of {given.algorithm}:",
    )
    try:
        if given.out is None:
            raise ValueError("out: expected a folder, got none")
        train(options, given.out, Budget(given.minutes, given.blocks))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted: the same command goes on where this one was\n")


if __name__ == "__main__":
    main()
