"""What our scheduler records of vLLM, and what the commands make of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from in_vllm.tiny import lines_of


def test_the_record_is_a_trace_that_replays_to_what_vllm_counted(recorded: Any, asks: Any) -> None:
    from laps_env.traces import AcceptanceTrace

    trace, played = AcceptanceTrace.load(recorded.runs), recorded.played
    asked = np.tile([ask.tokens for ask in asks], 3)[played.finished]
    assert trace.output_tokens.tolist() == asked.tolist()
    assert trace.predicted_tokens is not None
    assert trace.predicted_tokens.tolist() == asked.tolist()
    assert trace.schedule is not None
    assert trace.schedule_offset is not None
    assert trace.committed is not None
    np.testing.assert_array_equal(trace.replay(), trace.committed)
    for i, number in enumerate(played.finished):
        rounds = slice(*trace.schedule_offset[i : i + 2])
        drafted, accepted = trace.schedule[rounds], trace.committed[rounds].astype(int) - 1
        drafting = drafted > 0
        counted = played.metrics[number]
        assert drafted[drafting].tolist() == counted.per_step_drafted
        # the output's end cuts the last round, of which vLLM counts all that was accepted
        assert accepted[drafting].tolist()[:-1] == counted.per_step_accepted[:-1]
        assert sum(accepted) <= sum(counted.per_step_accepted)


def test_each_step_has_the_tokens_of_its_requests_and_their_caches(recorded: Any) -> None:
    """A request's cache grows by what is computed, less the drafts that were refused."""
    cached: dict[str, int] = {}
    for step in lines_of(recorded.log, "step"):
        assert step["duration_s"] > 0
        for share in step["requests"]:
            name = share["id"]
            assert share["cached"] == cached.get(name, 0)
            refused = share["drafted"] + 1 - share["committed"] if share["drafted"] else 0
            cached[name] = share["cached"] + share["scheduled"] - refused


def test_the_commands_make_costs_and_traffic_of_it(recorded: Any) -> None:
    from laps_env.policies.base.traffic_file import read_traffic
    from laps_env.sim.calibration_file import read_calibration

    assert read_calibration(recorded.calibration).target_pass_ns > 0
    traffic = read_traffic(recorded.traffic)
    assert traffic.categories == ("chat", "code", "other")
    assert traffic.saturation_rps > 0


def test_a_record_goes_on_and_nothing_else_is_touched(
    server: Any, asks: Any, tmp_path: Any
) -> None:
    path = tmp_path / "steps.jsonl"
    for count in (2, 4):
        server.use(policy="fcfs", record=str(path))
        server.play(asks[1:4:2])
        assert len(lines_of(path, "request")) == count
    path.write_text("mine\n")
    with pytest.raises(ValueError, match=r"expected a step log of .* begins with mine"):
        server.use(policy="fcfs", record=str(path))
    assert path.read_text() == "mine\n"
