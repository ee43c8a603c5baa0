"""Train a scheduler; see --help.

    python scripts/train.py --scenario mixed-serial-135m --minutes 15 --out runs/demo
    python scripts/evaluate.py --policies laps_sd,runs/demo --scenario mixed-serial-135m --loads 0.9

The same command goes on where a run was cut off, or further with a larger budget; a folder of
another run is refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from tqdm import tqdm

from laps_env.agents.hyperparameters import hyperparameters
from laps_env.agents.runs import ALGORITHMS, Budget, Options, train


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], add_help=False)
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="ppo")
    parser.add_argument("--out", type=Path, help="folder of the run")
    parser.add_argument("--minutes", type=float, help="budget")
    parser.add_argument("--blocks", type=int, help="budget, instead of minutes")
    given, rest = parser.parse_known_args(argv)
    try:
        options = read_options(given.algorithm, rest, parser.format_help())
        if given.out is None:
            raise ValueError("out: expected a folder, got none")
        budget = Budget(given.minutes, given.blocks)
        with tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar}| {elapsed}") as bar:

            def at(share: float, text: str) -> None:
                bar.write(text, file=sys.stdout)
                bar.update(min(share, 1.0) - bar.n)

            train(options, given.out, budget, at)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted: the same command goes on where this one was\n")


def read_options(algorithm: str, arguments: Sequence[str], help_text: str) -> Options:
    """What the command line says, over what the hyper-parameters say for its scenarios."""
    kind = ALGORITHMS[algorithm]
    text = f"{help_text}\nOptions of {algorithm}, by default for its own scenario:"
    plain = kind(**hyperparameters(algorithm, kind().scenario))
    named = tyro.cli(kind, args=arguments, description=text, default=plain)
    default = kind(**{**hyperparameters(algorithm, named.scenario), "scenario": named.scenario})
    return tyro.cli(kind, args=arguments, default=default)


if __name__ == "__main__":
    main()
