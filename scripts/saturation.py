"""Measure each scenario's saturation throughput and write it into its data file.

Run it after a change to the physics, to a cost model or to a profile; a test compares the stored
numbers with a fresh measurement.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from laps_env.utils.files import write_beside
from laps_env.workloads.scenarios import get_scenario, list_scenarios


def main() -> None:
    """Measure all scenarios, then replace the file in one move."""
    path = Path(str(files("laps_env") / "data" / "scenarios.json"))
    document = json.loads(path.read_text(encoding="utf-8"))
    for name in list_scenarios():
        rates = get_scenario(name).with_saturation().saturation_rps
        document["scenarios"][name]["saturation_rps"] = rates
        print(f"{name:20} {rates['test']:.4f} requests/s on the test split")
    write_beside(path, [(json.dumps(document, indent=2) + "\n").encode()])


if __name__ == "__main__":
    main()
