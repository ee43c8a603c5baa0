"""Measure each scenario's saturation throughput and write it into its file.

Run it after a change to the physics, to a cost model or to a profile; a test compares the stored
numbers with a fresh measurement.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from laps_env.utils.files import write_beside
from laps_env.workloads.scenarios import get_scenario, list_scenarios

#: Head of the last table of a file.
TABLE = "[saturation_rps]\n"


def main() -> None:
    """Measure all scenarios, and replace each file in one move."""
    folder = Path(str(files("laps_env") / "data" / "scenarios"))
    for name in list_scenarios():
        rates = get_scenario(name).with_saturation().saturation_rps
        path = folder / f"{name}.toml"
        rest, _, _ = path.read_text(encoding="utf-8").partition(TABLE)
        table = "".join(f"{split} = {rate!r}\n" for split, rate in rates.items())
        write_beside(path, [f"{rest}{TABLE}{table}".encode()])
        print(f"{name:20} {rates['test']:.4f} requests/s on the test split")


if __name__ == "__main__":
    main()
