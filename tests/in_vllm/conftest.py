"""The engine, once for all tests."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from in_vllm.tiny import Ask, Played, TinyServer

LENGTHS = (40, 8, 60, 16, 30, 5, 50, 1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")
    assert "numba" not in sys.modules, "vLLM cannot start behind numba: make test-vllm"
    return TinyServer(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def asks() -> list[Ask]:
    """Requests that are there at once; the second half has long prompts."""
    return [
        Ask(n, {"predicted_tokens": n, "category": "chat" if n > 20 else "code"}, 12 + 30 * (k > 3))
        for k, n in enumerate(LENGTHS)
    ]


@pytest.fixture(scope="session")
def texts(server: TinyServer, asks: list[Ask]) -> list[list[int]]:
    """Their outputs by vLLM's own scheduler."""
    from vllm.v1.core.sched.scheduler import Scheduler

    without = {"enable_prefix_caching": False}
    with server.under(server.new_scheduler(Scheduler, cache_config=without)):
        played = server.play(asks)
    assert [len(text) for text in played.texts] == list(LENGTHS)
    return played.texts


@dataclass
class Recorded:
    """A run of three times the requests and what the commands make of its record."""

    played: Played
    log: Path
    runs: Path
    calibration: Path
    traffic: Path


@pytest.fixture(scope="session")
def recorded(
    server: TinyServer, asks: list[Ask], tmp_path_factory: pytest.TempPathFactory
) -> Recorded:
    from laps_env.cli import main

    folder = tmp_path_factory.mktemp("recorded")
    names = ("steps.jsonl", "runs.safetensors", "calibration.json", "traffic.json")
    log, runs, calibration, traffic = (folder / name for name in names)
    server.use(policy="sjf", record=str(log))
    played = server.play(
        [Ask(a.tokens, a.told, a.prompt_tokens, 40 * k) for k in range(3) for a in asks]
    )
    main(["import", "steps", str(log), str(runs)])
    main(["calibrate", "--from-log", str(log), "--out", str(calibration)])
    main(["fit-traffic", str(runs), str(traffic), "--calibration", str(calibration)])
    return Recorded(played, log, runs, calibration, traffic)
