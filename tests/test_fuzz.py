"""The standing attack, small: damaged input ends in a clean error, or is fine. See `make fuzz`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("sb3_contrib")

from fuzz import __main__ as fuzz
from fuzz.files import Attack


@pytest.mark.slow
def test_damaged_input_ends_in_a_clean_error_at_every_door() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "--cases", "100"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1 + len(fuzz.DOORS)


def a_bad_door(folder: Path) -> Attack:
    def attack(rng: Random) -> None:
        kind = rng.choice(("expected", "other", "fine", "crash", "hang"))
        if kind == "crash":
            os._exit(3)
        if kind == "hang":
            time.sleep(600)
        if kind != "fine":
            raise ValueError(kind)

    return attack


def test_each_outcome_is_told_and_the_attack_goes_on_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(fuzz.DOORS, "bad", a_bad_door)
    monkeypatch.setattr(fuzz, "LIMIT_S", 0.3)
    right = {
        "expected": "clean error",
        "other": "traceback",
        "fine": "accepted",
        "crash": "crash",
        "hang": "hang",
    }
    kinds = [Random(f"bad 0 {case}").choice(tuple(right)) for case in range(33, 42)]
    assert set(kinds) == set(right)
    found = [outcome for _, outcome, _ in fuzz.attacked("bad", seed=0, first=33, cases=9)]
    assert found == [right[kind] for kind in kinds]
