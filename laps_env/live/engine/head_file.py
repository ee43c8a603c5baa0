"""The files of a draft head: ``head.safetensors``, its weights, and ``head.json``, what they are.

A matrix is stored as int8 with one float32 scale per output row, a quarter of its size in float32;
each weight is then off by at most half its row's scale. Vectors stay as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from laps_env.live.engine.head import DraftHead, HeadConfig
from laps_env.utils.checks import check_count, check_positive
from laps_env.utils.files import write_beside

FORMAT = "laps-env draft head"
VERSION = 1
DESCRIPTION, WEIGHTS = "head.json", "head.safetensors"

#: Of any size in a description: no head is wider, and no product of two overflows.
_MOST = 2**24


def save_head(folder: str | Path, head: DraftHead, card: Mapping[str, Any]) -> None:
    """Write a head into a folder, which is made where it is missing.

    Args:
        folder: of the two files.
        head: finite weights.
        card: free JSON for readers: what the head was trained on, how well it drafts.

    Raises:
        ValueError: weights that are not finite, or a card that JSON cannot hold.
        OSError: a folder that cannot be written.
    """
    state = {name: weight.cpu() for name, weight in head.state_dict().items()}
    for name, weight in state.items():
        if not bool(weight.isfinite().all()):
            raise ValueError(f"head: expected finite weights, got NaN or infinity in {name}")
    weights = save(_stored(state))
    description = {
        "format": FORMAT,
        "version": VERSION,
        "config": asdict(head.config),
        "sha256": hashlib.sha256(weights).hexdigest(),  # the two files belong together
        "card": dict(card),
    }
    try:
        text = json.dumps(description, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"card: expected what JSON can hold, got {error}") from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_beside(folder / WEIGHTS, [weights])
    write_beside(folder / DESCRIPTION, [text.encode()])


def load_head(folder: str | Path) -> DraftHead:
    """The head in a folder, in float32 on the host.

    Raises:
        ValueError: files that are missing or not as `save_head` writes them; the message names the
            file, the field, what was expected and what came.
    """
    path = Path(folder) / DESCRIPTION
    description = _description(path)
    config = _config(description, path)
    weights = Path(folder) / WEIGHTS
    stored = _tensors(weights, description["sha256"])
    with torch.device("meta"):
        head = DraftHead(config)
    expected = {name: (part.dtype, part.shape) for name, part in _stored(head.state_dict()).items()}
    _check_tensors(weights, stored, expected)
    head.load_state_dict(_restored(stored), assign=True)
    return head.requires_grad_(False).eval()


def _stored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the file holds of a head's state dict; on the meta device, types and shapes only."""
    stored = {}
    for name, weight in state.items():
        if name == "frequent":
            stored[name] = weight.to(torch.int32)
        elif weight.dim() == 1:
            stored[name] = weight.float()
        else:
            stored[name], stored[f"{name}.scale"] = _quantised(weight.float())
    return stored


def _quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers -127..127 [rows, columns] and the scale of each row."""
    scale = weight.abs().amax(1) / 127
    whole = (weight / torch.where(scale > 0, scale, 1.0)[:, None]).round()
    return whole.to(torch.int8), scale


def _restored(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a head, from what its file holds."""
    state = {}
    for name, part in stored.items():
        if name == "frequent":
            state[name] = part.long()
        elif f"{name}.scale" in stored:
            state[name] = part.float() * stored[f"{name}.scale"][:, None]
        elif not name.endswith(".scale"):
            state[name] = part
    return state


def _description(path: Path) -> dict[str, Any]:
    """The members of ``head.json``, of the format and version that this module writes."""
    try:
        description = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a JSON object, got {error}") from error
    if not isinstance(description, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(description).__name__}")
    for field, expected in (("format", FORMAT), ("version", VERSION)):
        if description.get(field) != expected:
            raise ValueError(
                f"{path}: {field}: expected {expected!r}, got {description.get(field)!r}"
            )
    if not isinstance(description.get("sha256"), str):
        raise ValueError(f"{path}: sha256: expected a text, got {description.get('sha256')!r}")
    return description


def _config(description: Mapping[str, Any], path: Path) -> HeadConfig:
    """The sizes of the head."""
    values, names = description.get("config"), [field.name for field in fields(HeadConfig)]
    if not isinstance(values, dict) or sorted(values) != sorted(names):
        raise ValueError(f"{path}: config: expected the members {names}, got {values!r}")
    for name in ("width", "heads", "inner", "frequent_tokens"):
        check_count(f"{path}: config.{name}", values[name], most=_MOST)
    check_positive(f"{path}: config.rope_theta", values["rope_theta"])
    config = HeadConfig(**values)
    if config.width % (2 * config.heads):
        raise ValueError(
            f"{path}: config.width: expected a multiple of twice the {config.heads} heads, "
            f"got {config.width}"
        )
    return config


def _tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """What the weights' file holds; it must be the one that the description was written with."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: expected the head's weights, got {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise ValueError(
            f"{path}: expected the sha256 {digest} that {DESCRIPTION} names, got {found} "
            f"({len(content)} bytes)"
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(f"{path}: expected safetensors, got {error}") from error


def _check_tensors(
    path: Path,
    stored: Mapping[str, Tensor],
    expected: Mapping[str, tuple[torch.dtype, torch.Size]],
) -> None:
    """Raise ``ValueError`` unless every tensor is there, of its type, its shape, and sound."""
    if stored.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - stored), sorted(stored.keys() - expected)
        raise ValueError(f"{path}: expected other tensors: {missing} missing, {extra} unknown")
    for name, part in stored.items():
        dtype, shape = expected[name]
        if (part.dtype, part.shape) != (dtype, shape):
            raise ValueError(
                f"{path}: {name}: expected {dtype} {list(shape)}, "
                f"got {part.dtype} {list(part.shape)}"
            )
        if not bool(part.isfinite().all()):
            raise ValueError(f"{path}: {name}: expected finite numbers, got NaN or infinity")
    frequent = stored["frequent"]
    least, different = int(frequent.min()), len(frequent.unique())
    if least < 0 or different < len(frequent):
        raise ValueError(
            f"{path}: frequent: expected different token ids >= 0, got {different} different ones "
            f"of {len(frequent)}, the least {least}"
        )
