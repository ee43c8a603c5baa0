"""What the scheduler refuses at its start, and says what it expected."""

from __future__ import annotations

import re
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("laps", "expected"),
    [
        ({"policy": "round_robin"}, "round_robin"),
        (
            {"policy": "laps_sd+smartspec"},
            "expected one that leaves the draft length to the engine",
        ),
        ({"policy": "oracle_srpt"}, "expected one that knows no true length"),
        ({"policy": "gittins"}, "laps.traffic: expected the file of laps-env fit-traffic"),
        ({"polcy": "fcfs"}, "polcy"),
        ({"policy": "las", "parameters": {"quanta": 3}}, "quanta"),
        ({"batch_size": 0}, "batch_size: expected"),
        ({"patience_s": -1}, "patience_s: expected"),
        ({"traffic": "t.json", "categories": ["chat"]}, "laps.categories: expected none beside"),
    ],
)
def test_settings_that_cannot_be_followed(server: Any, laps: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        server.new_scheduler(laps=laps)


@pytest.mark.parametrize(
    ("member", "value", "expected"),
    [
        ("async_scheduling", True, "async_scheduling: expected --no-async-scheduling"),
        ("policy", "priority", "scheduling_policy: expected fcfs, got priority"),
    ],
)
def test_another_way_of_scheduling(server: Any, member: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        server.new_scheduler(scheduler_config={member: value})


def test_a_vllm_that_lacks_what_is_used(server: Any, monkeypatch: Any) -> None:
    from laps_env.serving import vllm

    monkeypatch.setattr(vllm, "PRIVATE", (*vllm.PRIVATE, "gone", "lost"))
    with pytest.raises(RuntimeError, match="expected Scheduler to have gone, lost, which"):
        server.new_scheduler()


def test_a_policy_is_not_changed_while_requests_are_there(server: Any, asks: Any) -> None:
    server.use(policy="fcfs")

    def change(step: int) -> tuple[int, ...]:
        if step == 2:
            with pytest.raises(ValueError, match="expected an idle scheduler, got 2 requests"):
                server.use(policy="sjf")
        return ()

    server.play(asks[:2], change)
