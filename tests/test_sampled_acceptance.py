"""Acceptance under sampling: a probability per position in traces, drawn anew in the replay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from laps_env.traces import AcceptanceTrace, TraceError, TraceInfo
from laps_env.traces.joined import joined
from laps_env.utils.splits import Split
from laps_env.workloads.random import make_key
from laps_env.workloads.requests import RecordedRequests, Requests
from laps_env.workloads.scenarios import get_scenario

CHANCES = np.array([0.9, 0.5, 0.8, 0.3, 1.0, 0.6, 0.0], np.float32)


def trace_of(acceptance: Any = CHANCES, output: tuple[int, ...] = (4, 3)) -> AcceptanceTrace:
    """Requests of so many tokens, of which greedy rounds would accept nothing."""
    tokens = np.array(output, np.int64)
    return AcceptanceTrace(
        accepted_length=np.zeros(tokens.sum(), np.uint8),
        offset=np.concatenate([[0], np.cumsum(tokens)]),
        output_tokens=tokens,
        prompt_tokens=np.full(tokens.size, 5),
        category=np.zeros(tokens.size, np.int64),
        categories=("chat",),
        info=TraceInfo("draft-model", "big", "small", {"temperature": 1.0}),
        acceptance=acceptance,
    )


def drawn(trace: AcceptanceTrace, seed: int = 0, episode: int = 0, count: int = 50) -> Requests:
    source = RecordedRequests(trace, trace, name="by hand")
    return source.draw(make_key(Split.TRAIN, seed), episode, count, Split.TRAIN)


def runs_of(requests: Requests) -> list[tuple[int, npt.NDArray[np.uint8]]]:
    """Recorded request and accepted lengths of each request."""
    ends = np.cumsum(requests.output_tokens)[:-1]
    assert requests.source_index is not None
    return list(zip(requests.source_index, np.split(requests.accepted_length, ends), strict=True))


def test_a_trace_keeps_it(tmp_path: Path) -> None:
    trace = trace_of()
    trace.save(tmp_path / "runs.safetensors")
    loaded = AcceptanceTrace.load(tmp_path / "runs.safetensors")
    assert loaded.acceptance is not None
    np.testing.assert_array_equal(loaded.acceptance, CHANCES)
    part = loaded.select(np.array([1])).acceptance
    assert part is not None
    assert part.tolist() == CHANCES[4:].tolist()
    assert joined([trace, trace]).acceptance is not None
    assert joined([trace, trace_of(None)]).acceptance is None


def changed(position: int, value: float) -> npt.NDArray[np.float32]:
    chances = CHANCES.copy()
    chances[position] = value
    return chances


@pytest.mark.parametrize(
    ("acceptance", "message"),
    [
        (CHANCES[:-1], "acceptance: expected 7 entries, one per position, got 6"),
        (CHANCES.astype(float), "acceptance: expected a 1-d float32 array, got 1-d float64"),
        (changed(3, 1.5), r"request 0, acceptance\[3\]: expected 0 .. 1, got 1.5"),
        (changed(4, -0.5), r"request 1, acceptance\[0\]: expected 0 .. 1, got -0.5"),
        (changed(6, np.nan), r"request 1, acceptance\[2\]: expected 0 .. 1, got nan"),
    ],
)
def test_what_is_no_probability_is_refused(acceptance: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace_of(acceptance).validate()


def test_draws_are_of_their_address_alone() -> None:
    first = drawn(trace_of())
    np.testing.assert_array_equal(first.accepted_length, drawn(trace_of()).accepted_length)
    fewer = drawn(trace_of(), count=20).accepted_length
    np.testing.assert_array_equal(first.accepted_length[: fewer.size], fewer)
    plain = drawn(trace_of(None))
    assert not plain.accepted_length.any()  # as recorded
    np.testing.assert_array_equal(plain.source_index, first.source_index)  # no other draw changes


def test_a_recorded_request_goes_otherwise_in_every_seed_episode_and_place() -> None:
    one = trace_of(np.full(40, 0.5, np.float32), (40,))
    places = [runs for _, runs in runs_of(drawn(one, count=20))]
    others = [drawn(one, seed=1, count=1), drawn(one, episode=1, count=1)]
    runs = [own.tobytes() for own in [*places, *(other.accepted_length for other in others)]]
    assert len(set(runs)) == 22


def test_runs_are_bits_in_a_row_and_end_with_the_output() -> None:
    for _, runs in runs_of(drawn(trace_of())):
        left = np.arange(runs.size, 0, -1)
        assert (runs <= left).all()
        before = runs[:-1].astype(int)
        assert (runs[1:][before > 0] == before[before > 0] - 1).all()
    certain = trace_of(np.ones(600, np.float32), (600,))
    (_, runs) = runs_of(drawn(certain, count=1))[0]
    assert runs.tolist() == [min(600 - t, 255) for t in range(600)]
    assert not drawn(trace_of(np.zeros(7, np.float32))).accepted_length.any()


def test_over_many_seeds_they_are_as_likely_as_recorded() -> None:
    sampled = [pair for seed in range(40) for pair in runs_of(drawn(trace_of(), seed, count=200))]
    for index, chances in enumerate(np.split(CHANCES.astype(float), [4])):
        runs = np.array([own for of, own in sampled if of == index])
        expected = [np.cumprod(chances[t:]).sum() for t in range(chances.size)]
        error = 4 * runs.std(0) / np.sqrt(len(runs)) + 1e-12
        assert (np.abs(runs.mean(0) - expected) <= error).all()


def test_a_scenario_of_it_is_another_one_and_plays() -> None:
    base = get_scenario("mixed-serial-135m")
    assert isinstance(base.requests, RecordedRequests)
    train, test = (
        replace(part, acceptance=np.full(part.accepted_length.size, 0.5, np.float32))
        for part in (base.requests.train, base.requests.test)
    )
    scenario = replace(base, requests=replace(base.requests, train=train, test=test))
    assert scenario.digest != base.digest
    workload = scenario.workload(load=0.9, num_requests=200, split="test")
    assert workload.accepted_length.mean() == pytest.approx(1.0, abs=0.1)  # 1/2 + 1/4 + ...
