"""The house stays easy to find one's way in; `lint-imports` sees to its layers."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    file
    for name in ("laps_env", "policies", "agents", "scripts")
    for file in ROOT.glob(f"{name}/**/*.py")
)


def test_modules_are_short() -> None:
    lines = {file.relative_to(ROOT): len(file.read_text("utf-8").splitlines()) for file in MODULES}
    assert {file: n for file, n in lines.items() if n > 400} == {}


def test_no_module_only_forwards() -> None:
    """An `__init__.py` may: it says what its package offers."""
    forwarding = (ast.Import, ast.ImportFrom, ast.Expr)
    inner = [file for file in MODULES if file.name != "__init__.py"]
    bodies = {file.relative_to(ROOT): ast.parse(file.read_text("utf-8")).body for file in inner}
    only = [file for file, body in bodies.items() if all(isinstance(s, forwarding) for s in body)]
    assert only == []


def test_rooms_are_few() -> None:
    rooms = [
        p
        for p in (ROOT / "laps_env").iterdir()
        if p.suffix == ".py" or (p / "__init__.py").is_file()
    ]
    assert len(rooms) <= 16
