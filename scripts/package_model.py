"""Put the runs of a sweep together as a model that the package carries; see docs/learned.md.

    laps-env sweep sweeps/index.toml --out runs/index
    python scripts/package_model.py runs/index learned_index
    laps-env sweep sweeps/pointer.toml --out runs/pointer
    python scripts/package_model.py runs/pointer learned
    laps-env sweep sweeps/joint.toml --out runs/joint
    python scripts/package_model.py runs/joint learned_joint

For each run the weights that were best on the *validation* split: of a run on one scenario those of
that scenario, of the run on many those of all others. Those of a scenario that has no run in the
folder stay as they are.
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path
from typing import Any

from laps_env.policies.base.traffic_model import Floats
from laps_env.policies.networks.model_file import is_model, load_model, save_model


def gather(folder: Path, output: Path) -> tuple[str, dict[str, Floats], dict[str, Any]]:
    """The kind of rule, its arrays (`laps_env.policies.networks.model_file`), and what the card
    says of each run.

    Args:
        folder: Folder of the runs.
        output: Model that they go into, where there is one.

    Raises:
        ValueError: several runs for the same scenario, none for all, or different kinds.
    """
    arrays: dict[str, Floats] = {}
    training: dict[str, Any] = {}
    kinds = set()
    if is_model(output):
        card, shipped = load_model(output)
        arrays, kinds = dict(shipped), {card["kind"]}
        training = dict(card["training"])
    added: set[str] = set()
    for run in sorted(path for path in folder.iterdir() if is_model(path)):
        card, weights = load_model(run)
        scenarios = card["training"]["scenario"]
        owner = scenarios[0] if len(scenarios) == 1 else "all others"
        if owner in added:
            raise ValueError(f"{run}: expected one run for {owner}, got another")
        suffix = "" if len(scenarios) > 1 else f".{owner}"
        arrays |= {name + suffix: array for name, array in weights.items()}
        added.add(owner)
        training[owner] = {
            key: card[key]
            for key in ("training", "blocks", "log_ratios_to_reference_on_validation")
        }
        kinds.add(card["kind"])
    if len(kinds) != 1 or "all others" not in training:
        raise ValueError(
            f"{folder}: expected runs of one kind, one of them on many scenarios, got "
            f"{sorted(kinds)} for {sorted(training)}"
        )
    return kinds.pop(), arrays, training


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the sweep")
    parser.add_argument("name", help="of the policy")
    given = parser.parse_args()
    output = Path(str(files("laps_env.policies") / "data" / given.name))
    try:
        kind, arrays, training = gather(given.folder, output)
        save_model(output, kind, arrays, {"training": training})
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(f"written: {output}, of {len(training)} runs")


if __name__ == "__main__":
    main()
