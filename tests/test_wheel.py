"""The wheel works away from the repository: packages, data files and the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("laps_env", "policies", "agents")


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), cwd=ROOT)
    (built,) = out.glob("laps_env-*-py3-none-any.whl")
    return built


def test_wheel_carries_every_file_of_the_packages_and_no_other_package(wheel: Path) -> None:
    in_tree = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    for package in PACKAGES:
        assert f"{package}/__init__.py" in in_tree
    for data in ("laps_env/data/", "policies/data/"):
        assert any(name.startswith(data) for name in in_tree), f"no file under {data}"

    names = zipfile.ZipFile(wheel).namelist()
    carried = {name for name in names if ".dist-info/" not in name}
    assert carried == in_tree
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_wheel_lists_scenarios_and_policies_in_an_empty_directory(
    wheel: Path, tmp_path: Path
) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    run(
        "-m",
        "pip",
        "install",
        "--no-index",
        "--no-deps",
        "--target",
        str(site),
        str(wheel),
        cwd=empty,
    )
    # PYTHONPATH comes before this environment's own packages, which only lend the dependencies.
    where = run("-c", "import laps_env; print(laps_env.__file__)", cwd=empty, PYTHONPATH=str(site))
    assert Path(where.strip()).is_relative_to(site)
    listed = run("-m", "laps_env", "list", cwd=empty, PYTHONPATH=str(site))
    assert "chat-serial-8b" in listed
    assert "laps_sd" in listed
