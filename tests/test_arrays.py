"""Arrays of safetensors files: what NumPy does not know is named, whoever reads the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from laps_env.policies.networks.model_file import WEIGHTS, load_model, save_model
from laps_env.utils.arrays import read_arrays


def write_bfloat16(path: Path) -> None:
    """Two numbers as PyTorch writes them, of a type that NumPy lacks."""
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def test_a_type_that_numpy_lacks_is_named(tmp_path: Path) -> None:
    save_model(tmp_path, "ppo", {"w": np.zeros(2)}, {})
    assert load_model(tmp_path)[1]["w"].tolist() == [0, 0]
    write_bfloat16(tmp_path / WEIGHTS)
    for read in (lambda: read_arrays(tmp_path / WEIGHTS), lambda: load_model(tmp_path)):
        with pytest.raises(ValueError, match="w: expected a type of NumPy's, got BF16"):
            read()
