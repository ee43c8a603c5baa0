"""The files of a draft head: ``head.safetensors``, its weights, and ``head.json``, what they are.

A matrix is stored as int8 with one float32 scale per output row, a quarter of its size in float32;
each weight is then off by at most half its row's scale. Vectors stay as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from laps_env.live.engine.head import DraftHead, HeadConfig
from laps_env.utils.documents import encode_document, read_document
from laps_env.utils.files import write_beside

FORMAT = "laps-env draft head"
VERSION = 1
DESCRIPTION, WEIGHTS = "head.json", "head.safetensors"

#: Any size in a description: no head is wider, and no product of two overflows.
_Size = Annotated[int, Meta(ge=1, le=2**24)]


class _Config(msgspec.Struct, forbid_unknown_fields=True):
    """Members of a `HeadConfig`."""

    width: _Size
    heads: _Size
    inner: _Size
    rope_theta: Annotated[float, Meta(gt=0)]
    frequent_tokens: _Size

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            expected = f"a multiple of twice the {self.heads} heads"
            raise ValueError(f"width: expected {expected}, got {self.width}")


class _Description(msgspec.Struct):
    """Members of ``head.json``; the digest of the weights ties the two files together."""

    config: _Config
    sha256: str


def save_head(folder: str | Path, head: DraftHead, card: Mapping[str, Any]) -> None:
    """Write a head into a folder, which is made where it is missing.

    Args:
        folder: Folder of the two files.
        head: Head with finite weights.
        card: Free JSON for readers: what the head was trained on, how well it drafts.

    Raises:
        ValueError: Weights that are not finite, or a card that JSON cannot hold.
        OSError: The folder cannot be written.
    """
    state = {name: weight.cpu() for name, weight in head.state_dict().items()}
    for name, weight in state.items():
        if not bool(weight.isfinite().all()):
            raise ValueError(f"head: expected finite weights, got NaN or infinity in {name}")
    weights = save(_stored(state))
    members = {
        "config": asdict(head.config),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "card": dict(card),
    }
    path = Path(folder) / DESCRIPTION
    description = encode_document(path, FORMAT, VERSION, members)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_beside(path.with_name(WEIGHTS), [weights])
    write_beside(path, [description])


def load_head(folder: str | Path) -> DraftHead:
    """Read the head in a folder, in float32 on the host.

    Raises:
        ValueError: Files that are not as `save_head` writes them; the message names the file, the
            member, what was expected and what came.
        OSError: A file cannot be read.
    """
    description = read_document(Path(folder) / DESCRIPTION, _Description, FORMAT, VERSION)
    weights = Path(folder) / WEIGHTS
    stored = _tensors(weights, description.sha256)
    with torch.device("meta"):
        head = DraftHead(HeadConfig(**msgspec.structs.asdict(description.config)))
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
