"""The report of a results file: an HTML page, timelines, tables in Markdown.

    python scripts/report.py results.json --out report

scripts/evaluate.py writes the same at its end.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from laps_env.cli.messages import errors_as_messages
from laps_env.evaluation.results import read_results
from laps_env.report.write import steps_of, write_report
from laps_env.utils.files import check_output_folder


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?", default=Path("results.json"))
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder")
    given = parser.parse_args(argv)
    with errors_as_messages(parser):
        check_output_folder(given.out)
        results = read_results(given.results)
        with tqdm(total=steps_of(results), unit="step", mininterval=0.5, leave=False) as bar:
            index = write_report(results, given.out, bar.update)
        print(index)


if __name__ == "__main__":
    main()
