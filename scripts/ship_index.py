"""Put the searches of sweeps/index.toml together as the model that `learned_index` loads.

    python scripts/sweep.py sweeps/index.toml --out runs/index
    python scripts/ship_index.py runs/index

For each run the weights that were best on the *tune* set: of a run on one scenario those of that
scenario, of the run on many those of all others.
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path
from typing import Any

from policies.laws import Floats
from policies.model_file import is_model, load_model, save_model

OUTPUT = Path(str(files("policies") / "data" / "learned_index"))


def gather(folder: Path) -> tuple[dict[str, Floats], dict[str, Any]]:
    """The weights by name, and what the card says of each.

    Raises:
        ValueError: no run, several for the same scenario, or none for all.
    """
    arrays: dict[str, Floats] = {}
    training: dict[str, Any] = {}
    for run in sorted(path for path in folder.iterdir() if is_model(path)):
        card, weights = load_model(run)
        scenarios = card["training"]["scenario"]
        name = f"weights.{scenarios[0]}" if len(scenarios) == 1 else "weights"
        if name in arrays:
            raise ValueError(f"{run}: expected one run for {name}, got another")
        arrays[name] = weights["weights"]
        training[name] = {
            key: card[key] for key in ("training", "blocks", "log_ratios_to_laps_sd_on_tune")
        }
    if "weights" not in arrays:
        raise ValueError(f"{folder}: expected a run on many scenarios, got {sorted(arrays)}")
    return arrays, training


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the sweep")
    given = parser.parse_args()
    try:
        arrays, training = gather(given.folder)
        save_model(OUTPUT, "index", arrays, {"training": training})
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(f"written: {OUTPUT}, {len(arrays)} sets of weights")


if __name__ == "__main__":
    main()
