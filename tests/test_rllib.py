"""The example of RLlib, where RLlib is installed (docs/learned.md)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray.rllib")


@pytest.mark.slow
def test_rllib_trains_on_the_replay() -> None:
    script = Path(__file__).parents[1] / "scripts" / "rllib_example.py"
    command = [sys.executable, str(script), "--iterations", "2"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    returns = [float(text) for text in re.findall(r"mean return (-[\d.]+)", out)]
    assert len(returns) == 2
