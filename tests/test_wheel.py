"""One import name: what is built holds `laps_env` alone, and works beside the user's own names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Folders of the repository by the name they are installed under; two of them are linked into the
#: first, where no file may be taken a second time.
FOLDERS = {"laps_env": "laps_env", "policies": "laps_env/policies", "agents": "laps_env/agents"}

#: An evaluation of seconds.
SMALL = (
    "evaluate --policies fcfs --scenario chat-serial-135m --loads 0.9 --episodes 1 --requests 20"
)
#: Runs a command, then says which of the repository's folders were imported by their bare names.
NAMES_AFTER = """
import sys
from laps_env.cli import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert not done.code
print(sorted({"policies", "agents"} & set(sys.modules)))
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_in(folder: Path) -> list[Path]:
    """Files below a folder, without those behind links."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [(Path(parent) / name).relative_to(folder) for name in names]
    return found


def contents(wheel: Path) -> dict[str, int]:
    """Checksums of a wheel's files, without those about the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert len(names) == len(set(names))
    return {e.filename: e.CRC for e in entries if ".dist-info/" not in e.filename}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built: builds leave files where they ran, and take up those of earlier."""
    copy = tmp_path_factory.mktemp("repository")
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def built(repository: Path) -> Path:
    """A source archive and the wheel that is made from it."""
    run("-m", "build", "--no-isolation", cwd=repository)
    return repository / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("laps_env-*-py3-none-any.whl")
    return found


def test_wheel_holds_every_file_of_the_folders_under_one_name(wheel: Path) -> None:
    expected = {
        f"{installed}/{file.as_posix()}"
        for folder, installed in FOLDERS.items()
        for file in files_in(ROOT / folder)
    }
    assert {"laps_env/py.typed", "laps_env/policies/data/tuned.json"} < expected
    assert set(contents(wheel)) == expected
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    (about,) = top - {"laps_env"}
    assert about.endswith(".dist-info")


def test_sources_hold_no_file_twice_and_make_the_wheel_of_the_repository(
    repository: Path, built: Path, wheel: Path, tmp_path: Path
) -> None:
    (sources,) = built.glob("laps_env-*.tar.gz")
    with tarfile.open(sources) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"policies/fcfs.py", "agents/ppo.py"} < set(names)
    assert not any(name.startswith(("laps_env/policies/", "laps_env/agents/")) for name in names)

    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), cwd=repository)
    (direct,) = tmp_path.glob("*.whl")
    assert contents(direct) == contents(wheel)


@pytest.mark.slow
def test_wheel_works_in_a_folder_with_the_user_s_own_names(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    (work / "agents").mkdir(parents=True)
    for name in ("policies.py", "agents/__init__.py"):
        (work / name).write_text("raise RuntimeError('the user's own file was imported')\n")
    install = ("-m", "pip", "install", "--no-index", "--no-deps", "--target", str(site))
    run(*install, str(wheel), cwd=work)

    def command(*arguments: str) -> str:
        # PYTHONPATH comes before this environment's packages, which only lend the dependencies.
        cache = str(tmp_path / "cache")
        return run(*arguments, cwd=work, PYTHONPATH=str(site), LAPS_ENV_CACHE=cache)

    where = command("-c", "import laps_env.policies as found; print(found.__file__)")
    assert Path(where.strip()) == site / "laps_env" / "policies" / "__init__.py"
    module, script = ("-m", "laps_env"), (str(site / "bin" / "laps-env"),)
    listed = command(*script, "list")
    assert "chat-serial-8b" in listed
    assert "laps_sd" in listed
    assert command(*module, "list") == listed
    for name in ("train", "timeline"):
        assert f"usage: laps-env {name}" in command(*script, name, "--help")
    command(*script, *SMALL.split(), "--json", "results.json")
    assert "1 of 1 workloads" in command(*module, "check", "results.json", "--sample", "1")


def test_folders_of_the_repository_are_no_modules_of_their_own(tmp_path: Path) -> None:
    evaluate = f"{SMALL} --json {tmp_path / 'results.json'}"
    for arguments in ("list", evaluate, "train --help", "train index --help"):
        found = run("-c", NAMES_AFTER, *arguments.split(), cwd=ROOT)
        assert found.splitlines()[-1] == "[]", arguments
    for name in ("policies", "agents"):
        attempt = f"try: import {name}\nexcept ImportError as reason: print(reason)"
        assert f"laps_env.{name}" in run("-c", attempt, cwd=ROOT)


def test_agents_are_no_module_of_their_own_when_they_train() -> None:
    pytest.importorskip("stable_baselines3")
    loaded = "import sys, laps_env.agents.ppo; print({'policies', 'agents'} & set(sys.modules))"
    assert run("-c", loaded, cwd=ROOT).strip() == "set()"
