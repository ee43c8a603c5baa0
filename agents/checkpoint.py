"""Checkpoints of a policy under training: tensors in safetensors, the rest in JSON.

The JSON file names the tensor file and is replaced last, so a run that is killed while it writes
still has the checkpoint before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from laps_env.agents.queue_policy import QueuePolicy
from laps_env.utils.files import read_json, write_beside

NAME = "checkpoint.json"


def save_checkpoint(folder: Path, policy: QueuePolicy, block: int, state: dict[str, Any]) -> None:
    """Write what a run needs to go on after a block.

    Args:
        folder: of the run.
        policy: weights and optimizer.
        block: its number names the tensor file.
        state: what else is needed, as JSON has it.
    """
    tensors = {f"policy.{name}": tensor for name, tensor in policy.state_dict().items()}
    for place, own in policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{place}.{name}": tensor for name, tensor in own.items()}
    path = folder / f"checkpoint-{block}.safetensors"
    write_beside(path, [save({name: t.contiguous() for name, t in tensors.items()})])
    document = {"tensors": path.name, **state}
    write_beside(folder / NAME, [(json.dumps(document, indent=1) + "\n").encode()])
    for old in folder.glob("checkpoint-*.safetensors"):
        if old != path:
            old.unlink()


def has_checkpoint(folder: Path) -> bool:
    """Whether the folder has one."""
    return (folder / NAME).is_file()


def load_checkpoint(folder: Path, policy: QueuePolicy) -> dict[str, Any]:
    """Fill in weights and optimizer; returns what else was kept.

    Raises:
        ValueError, OSError: there is none, or it is damaged or of another network.
    """
    state = read_json(folder / NAME, dict)
    path = folder / str(state.get("tensors"))
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: expected safetensors, got {error}") from None
    weights: dict[str, torch.Tensor] = {}
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        what, _, rest = name.partition(".")
        if what == "policy":
            weights[rest] = tensor
        else:
            place, _, part = rest.partition(".")
            moments.setdefault(int(place), {})[part] = tensor
    groups = policy.optimizer.state_dict()["param_groups"]
    try:
        policy.load_state_dict(weights)
        policy.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    except RuntimeError as error:
        raise ValueError(f"{path}: expected a checkpoint of this network, got {error}") from None
    return state
