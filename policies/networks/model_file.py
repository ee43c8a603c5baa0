"""Learned rules as folders: weights in safetensors beside a card in JSON. Nothing is unpickled.

FOLDER/model.safetensors   the arrays of the rule, float32
FOLDER/card.json           which rule, what it reads, how it was trained, what came out

A model may have several sets of arrays: ``NAME.SCENARIO`` is for that scenario, ``NAME`` for all
others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from laps_env.policies.base.traffic_model import Floats
from laps_env.policies.networks.features import REQUEST_FEATURES, SERVER_FEATURES
from laps_env.utils.arrays import read_arrays
from laps_env.utils.documents import read_document, write_document
from laps_env.utils.files import write_beside

FORMAT = "laps-env learned policy"
VERSION = 2
CARD, WEIGHTS = "card.json", "model.safetensors"

#: Members that a card must have so that the weights are read as they were meant.
LAYOUT = {
    "request_features": [feature.name for feature in REQUEST_FEATURES],
    "server_features": [feature.name for feature in SERVER_FEATURES],
}


def is_model(folder: str | Path) -> bool:
    """Whether this is the folder of a learned rule."""
    return (Path(folder) / CARD).is_file()


def save_model(folder: Path, kind: str, arrays: dict[str, Any], about: dict[str, Any]) -> None:
    """Write a model, the weights first: a folder with a card is whole.

    Args:
        folder: Folder, made if it is not there.
        kind: Kind of rule.
        arrays: Weights by name, kept as float32.
        about: Further members of the card.

    Raises:
        ValueError: A card that JSON cannot hold.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: np.ascontiguousarray(a, np.float32) for name, a in arrays.items()}
    write_beside(folder / WEIGHTS, [save(weights)])
    write_document(folder / CARD, FORMAT, VERSION, {"kind": kind, **LAYOUT, **about})


def load_model(folder: str | Path) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Read the card and the weights, in float64.

    Raises:
        ValueError: A damaged file, a model for another layout of the observation, or weights that
            are not finite; the message names the file, what was expected and what came.
        OSError: A file cannot be read.
    """
    path = Path(folder) / CARD
    card = read_document(path, dict[str, Any], FORMAT, VERSION)
    for name, value in LAYOUT.items():
        if card.get(name) != value:
            raise ValueError(f"{path}: {name}: expected {value!r}, got {card.get(name)!r}")
    if not isinstance(card.get("kind"), str):
        raise ValueError(f"{path}: kind: expected a text, got {card.get('kind')!r}")
    path = Path(folder) / WEIGHTS
    weights, _ = read_arrays(path)
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name}: expected finite weights, got NaN or infinity")
    return card, {name: np.asarray(array, np.float64) for name, array in weights.items()}


def arrays_for(arrays: dict[str, Floats], scenario: str) -> dict[str, Floats]:
    """Arrays for a scenario: its own, where the model has some, else those for all others."""
    sets: dict[str, dict[str, Floats]] = {}
    for key, array in arrays.items():
        name, _, owner = key.partition(".")
        sets.setdefault(owner, {})[name] = array
    return sets.get(scenario, sets.get("", {}))
