"""Checkpoints of a policy under training: tensors in safetensors, the rest in JSON.

The JSON file names the tensor file and is replaced last, so a run that is killed while it writes
still has the checkpoint before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from laps_env.agents.queue_policy import QueuePolicy
from laps_env.utils.documents import read_document, write_document
from laps_env.utils.files import write_beside

FORMAT = "laps-env checkpoint"
VERSION = 1
NAME = "checkpoint.json"


class _File(msgspec.Struct):
    """Members of the JSON file: name of the tensor file, and what else a run needs."""

    tensors: str
    state: dict[str, Any]


def save_checkpoint(folder: Path, policy: QueuePolicy, block: int, state: dict[str, Any]) -> None:
    """Write what a run needs to go on after a block.

    Args:
        folder: Folder of the run.
        policy: Policy, whose weights and optimizer are kept.
        block: Number of the block; it names the tensor file.
        state: Plain JSON values that the run needs too.

    Raises:
        ValueError: A state that JSON cannot hold.
        OSError: The folder cannot be written.
    """
    tensors = {f"policy.{name}": tensor for name, tensor in policy.state_dict().items()}
    for place, own in policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{place}.{name}": tensor for name, tensor in own.items()}
    path = folder / f"checkpoint-{block}.safetensors"
    write_beside(path, [save({name: t.contiguous() for name, t in tensors.items()})])
    write_document(folder / NAME, FORMAT, VERSION, {"tensors": path.name, "state": state})
    for old in folder.glob("checkpoint-*.safetensors"):
        if old != path:
            old.unlink()


def has_checkpoint(folder: Path) -> bool:
    """Whether the folder has one."""
    return (folder / NAME).is_file()


def load_checkpoint(folder: Path, policy: QueuePolicy) -> dict[str, Any]:
    """Fill in weights and optimizer, and return the state that was kept beside them.

    Raises:
        ValueError: A checkpoint that is damaged, or of another network.
        OSError: A file cannot be read.
    """
    file = read_document(folder / NAME, _File, FORMAT, VERSION)
    path = folder / file.tensors
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: expected safetensors, got {error}") from None
    weights: dict[str, torch.Tensor] = {}
    moments: dict[int, dict[str, torch.Tensor]] = {}
    groups = policy.optimizer.state_dict()["param_groups"]
    try:
        for name, tensor in tensors.items():
            what, _, rest = name.partition(".")
            if what == "policy":
                weights[rest] = tensor
            else:
                place, _, part = rest.partition(".")
                moments.setdefault(int(place), {})[part] = tensor
        policy.load_state_dict(weights)
        policy.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: expected a checkpoint of this network, got {error}") from None
    return file.state
