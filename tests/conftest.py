"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public recordings, which is not part of the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LAPS_ENV_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no recorded data: set LAPS_ENV_DATA, or put shared/data beside the repository")
    return folder
