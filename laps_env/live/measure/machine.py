"""What a measurement was made with: device, software, models."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from laps_env.live.device import device_name
from laps_env.live.engine.loading import Pair


def describe(pair: Pair) -> dict[str, Any]:
    """Time, device, software, models and type, as results files have them."""
    return {
        **describe_device(pair.target.device),
        # of a folder its name: where it lay on this machine is nobody else's business
        "models": {"target": Path(pair.target_name).name, "draft": Path(pair.draft_name).name},
        "dtype": str(pair.target.dtype).removeprefix("torch."),
    }


def describe_device(device: torch.device) -> dict[str, Any]:
    """Time, device and software."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": {
            "type": device.type,
            "name": device_name(device),
            "cores": os.cpu_count() or 1,
            "threads": torch.get_num_threads(),
        },
        "software": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "laps_env": version("laps-env"),
        },
    }
