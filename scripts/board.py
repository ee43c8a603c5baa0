"""Rank the policies of results files that were measured on the same workloads.

    python scripts/board.py results.json mine.json

Before a file of somebody else's is believed: python scripts/evaluate.py --check mine.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from laps_env.cli.messages import errors_as_messages
from laps_env.evaluation.results import read_results
from laps_env.report.leaderboard import leaderboard, leaderboard_table


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="of one simulator version")
    given = parser.parse_args(argv)
    with errors_as_messages(parser):
        print(leaderboard_table(leaderboard(map(read_results, given.results))))


if __name__ == "__main__":
    main()
