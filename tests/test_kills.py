"""Long jobs that are killed go on, and leave what the unbroken ones leave. See `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sb3_contrib")
pytest.importorskip("transformers")

from kills import killed

from laps_env.utils.files import write_beside


@pytest.mark.slow
@pytest.mark.parametrize("job", ["evaluate", "train_index", "tune", "record"])
def test_a_killed_job_leaves_what_the_unbroken_one_leaves(job: str) -> None:
    kills, different = killed(job, loops=2, seed=0)
    assert kills
    assert not different


def test_half_a_file_of_a_killed_process_goes_with_the_next_whole_one(tmp_path: Path) -> None:
    path, half = tmp_path / "card[1].json", tmp_path / ".card[1].json.77.part"
    half.write_bytes(b"ha")
    write_beside(path, [b"who", b"le"])
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
