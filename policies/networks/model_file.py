"""Learned rules as folders: weights in safetensors beside a card in JSON. Nothing is unpickled.

FOLDER/model.safetensors   the arrays of the rule, float32
FOLDER/card.json           which rule, what it reads, how it was trained, what came out

A model may have several sets of arrays: ``NAME.SCENARIO`` is for that scenario, ``NAME`` for all
others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from laps_env.policies.base.traffic_model import Floats
from laps_env.policies.networks.features import REQUEST_FEATURES, SERVER_FEATURES
from laps_env.utils.files import read_json, write_beside

FORMAT = "laps-env learned policy"
VERSION = 1
CARD, WEIGHTS = "card.json", "model.safetensors"

#: What a card must say so that the weights are read as they were meant.
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
        folder: made if it is not there.
        kind: of rule.
        arrays: its weights by name, kept as float32.
        about: what else the card says.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: np.ascontiguousarray(a, np.float32) for name, a in arrays.items()}
    card = {"format": FORMAT, "version": VERSION, "kind": kind, **LAYOUT, **about}
    write_beside(folder / WEIGHTS, [save(weights)])
    write_beside(folder / CARD, [(json.dumps(card, indent=1, allow_nan=False) + "\n").encode()])


def load_model(folder: str | Path) -> tuple[dict[str, Any], dict[str, Floats]]:
    """The card and the weights, in float64.

    Raises:
        ValueError: naming the file, what was expected and what came: a damaged file, a model for
            another layout of the observation, weights that are not finite.
        OSError: a file cannot be read.
    """
    folder = Path(folder)
    card = read_json(folder / CARD, _checked_card)
    path = folder / WEIGHTS
    try:
        arrays = load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path}: expected safetensors, got {error}") from None
    weights = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name}: expected finite weights")
    return card, weights


def arrays_for(arrays: dict[str, Floats], scenario: str) -> dict[str, Floats]:
    """Those of a scenario, where the model has some for it alone, else those for all."""
    sets: dict[str, dict[str, Floats]] = {}
    for key, array in arrays.items():
        name, _, owner = key.partition(".")
        sets.setdefault(owner, {})[name] = array
    return sets.get(scenario, sets.get("", {}))


def _checked_card(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ValueError(f"expected an object, got {document!r}")
    expected = {"format": FORMAT, "version": VERSION, **LAYOUT}
    for name, value in expected.items():
        if document.get(name) != value:
            raise ValueError(f"{name}: expected {value!r}, got {document.get(name)!r}")
    if not isinstance(document.get("kind"), str):
        raise ValueError(f"kind: expected a text, got {document.get('kind')!r}")
    return document
