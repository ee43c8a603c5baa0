"""The cache of compiled code on bare machines: no home, a folder to read only, spoilt files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

STRANGER = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]

#: Prints f(1), and how often it came from the cache.
MODULE = """
from laps_env.utils.jit import jit

@jit
def f(x):
    return x + 41

if __name__ == "__main__":
    print(f(1), sum(f.stats.cache_hits.values()))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may read, with a module in a folder that everybody may write."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "own").mkdir()
    (folder / "own").chmod(0o777)
    (folder / "own" / "module.py").write_text(MODULE, encoding="utf-8")
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


def run(place: Path, *arguments: str, stranger: bool = False, **own: str) -> Any:
    """Python in that folder, as somebody who owns nothing where we are root (who may write all)."""
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", *own)}
    kept |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    kept.pop("LAPS_ENV_CACHE", None)
    drop = STRANGER if stranger and os.getuid() == 0 else []
    return subprocess.run(
        [*drop, sys.executable, *(arguments or ("own/module.py",))],
        cwd=place,
        env=kept | own,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_cache_that_may_only_be_read_is_used(place: Path) -> None:
    cache = place / "cache"
    assert run(place, LAPS_ENV_CACHE=str(cache)).stdout == "42 0\n"
    for path in (*cache.rglob("*"), cache):
        path.chmod(0o555 if path.is_dir() else 0o444)
    warm = run(place, stranger=True, LAPS_ENV_CACHE=str(cache))
    assert (warm.stdout, warm.stderr) == ("42 1\n", "")


@pytest.mark.parametrize("home", [{"HOME": "/"}, {}], ids=["at the root", "none"])
def test_without_a_home_it_works_and_names_the_variable(place: Path, home: dict[str, str]) -> None:
    if not home and os.getuid() != 0:
        pytest.skip("the user of this machine has a home")
    for _ in range(2):
        done = run(place, stranger=True, **home)
        assert done.stdout == "42 0\n", done.stderr
        assert "got /.cache/laps_env, which cannot be written" in done.stderr
        assert done.stderr.count("LAPS_ENV_CACHE names another") == 1
    # numba would keep it beside the module, under a key that knows nothing of other files
    assert [path.name for path in (place / "own").iterdir()] == ["module.py"]
    listed = run(place, "-m", "laps_env", "list", stranger=True, **home)
    assert (listed.returncode, listed.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("spoilt", [b"", b"garbage", b"\x80\x04K\x01."])
def test_a_spoilt_cache_file_is_compiled_over(place: Path, kind: str, spoilt: bytes) -> None:
    cache = place / "cache"
    run(place, LAPS_ENV_CACHE=str(cache))
    (file,) = cache.rglob(f"*.{kind}")
    file.write_bytes(spoilt)
    for expected in ("42 0\n", "42 1\n"):
        done = run(place, LAPS_ENV_CACHE=str(cache))
        assert (done.stdout, done.stderr) == (expected, "")
