"""Workloads: addressed random numbers, the same at every address, and checked."""

from __future__ import annotations

from dataclasses import fields
from itertools import product
from typing import Any

import numpy as np
import pytest
from kernel_pairs import make_workload
from random_instances import random_workload

from laps_env.sim.observation import MAX_COUNT
from laps_env.utils.splits import Split, as_split
from laps_env.workloads import Workload
from laps_env.workloads.arrivals import (
    GammaGaps,
)
from laps_env.workloads.random import make_key, normals, philox, uniforms
from laps_env.workloads.requests import RecordedRequests
from laps_env.workloads.scenarios import get_scenario, list_scenarios

# -- random numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (
            [0, 0, 0, 0],
            [0, 0],
            [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        ),
        (
            [0xFFFFFFFF] * 4,
            [0xFFFFFFFF] * 2,
            [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        ),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: list[int], key: list[int], words: list[int]
) -> None:
    """Random123's kat_vectors for philox4x32-10."""
    arguments = [np.uint64(word) for word in (*key, *counter)]
    assert [int(word) for word in philox(*arguments)] == words


def test_uniforms_and_normals_have_their_moments() -> None:
    key = make_key(Split.TRAIN, 0)
    u = np.array([uniforms(key, 0, 0, i, b) for i, b in product(range(2000), range(5))])
    z = np.array([normals(key, 1, 0, i, b) for i, b in product(range(2000), range(5))])
    assert ((u > 0) & (u < 1)).all()
    np.testing.assert_allclose([u.mean(), u.var()], [1 / 2, 1 / 12], atol=0.006)
    np.testing.assert_allclose([z.mean(), z.var(), (z**4).mean()], [0, 1, 3], atol=0.12)
    for pair in (u, z):
        assert abs(np.corrcoef(pair.T)[0, 1]) < 0.03
        assert abs(np.corrcoef(pair[:-1, 0], pair[1:, 0])[0, 1]) < 0.03


def test_addresses_are_disjoint() -> None:
    keys = {tuple(make_key(tag, seed)) for tag in Split for seed in range(3000)}
    assert len(keys) == len(Split) * 3000
    key = make_key(Split.TEST, 2**40)
    draws = [
        uniforms(key, stream, episode, request, block)
        for stream, episode, request, block in product(range(4), repeat=4)
    ]
    assert len(np.unique(draws)) == 2 * 4**4


def test_bad_addresses() -> None:
    with pytest.raises(ValueError, match=r"split: expected one of train, validation, .*'final'"):
        as_split("final")
    with pytest.raises(ValueError, match="seed: expected an integer >= 0"):
        make_key(Split.TRAIN, -1)


# -- workloads of scenarios -----------------------------------------------------------------------


def test_an_address_is_one_workload_and_others_differ() -> None:
    scenario = get_scenario("mixed-batch8-8b")
    addresses = list(product(("train", "validation", "test"), (0, 1), (0, 1)))

    def draw(tag: str, seed: int, episode: int) -> Workload:
        return scenario.workload(load=0.9, num_requests=40, split=tag, seed=seed, episode=episode)

    workloads = [draw(*address) for address in addresses]
    for i, (address, workload) in enumerate(zip(addresses, workloads, strict=True)):
        assert workload.equals(draw(*address))
        for other in workloads[:i]:
            for name in ("arrival_ns", "output_tokens", "prompt_tokens", "predicted_tokens"):
                a, b = getattr(workload, name), getattr(other, name)
                assert (a == b).mean() < 0.2, f"{name} at {address}"


@pytest.mark.parametrize("name", list_scenarios())
def test_a_longer_workload_begins_with_the_shorter_one(name: str) -> None:
    scenario = get_scenario(name)
    for seed in range(20):
        short = scenario.workload(load=0.7, num_requests=5, seed=seed)
        long = scenario.workload(load=0.7, num_requests=17, seed=seed)
        for field in fields(Workload):
            values, longer = getattr(short, field.name), getattr(long, field.name)
            if name.startswith("drift") and field.name == "arrival_ns":
                stretched = longer[:5] * (values[-1] / longer[4])  # each brings the load by itself
                np.testing.assert_allclose(values, stretched, atol=2)
            elif isinstance(values, np.ndarray):
                np.testing.assert_array_equal(values, longer[: len(values)], field.name)


def test_the_load_stretches_the_arrivals_and_nothing_else() -> None:
    scenario = get_scenario("bursty-serial-8b")
    slow, fast = (scenario.workload(load=load, num_requests=200, seed=1) for load in (0.3, 0.9))
    np.testing.assert_allclose(slow.arrival_ns, 3 * fast.arrival_ns, rtol=1e-12, atol=2)
    for name in (
        "prompt_tokens",
        "output_tokens",
        "predicted_tokens",
        "category",
        "accepted_length",
    ):
        np.testing.assert_array_equal(getattr(slow, name), getattr(fast, name))
    rate = 200 / (scenario.workload(load=0.9, num_requests=200, seed=2).arrival_ns[-1] * 1e-9)
    assert 0.2 < rate / (0.9 * scenario.saturation("train")) < 5  # one bursty workload


def test_arrivals_prediction_and_bodies_have_streams_of_their_own() -> None:
    scenario = get_scenario("chat-serial-8b")
    base = scenario.workload(load=0.9, num_requests=50)
    other = scenario.with_arrivals(GammaGaps(3.0)).workload(
        load=0.9, num_requests=50, predictor_error=0.1
    )
    assert (base.arrival_ns != other.arrival_ns).all()
    assert (base.predicted_tokens != other.predicted_tokens).all()
    for name in ("prompt_tokens", "output_tokens", "accepted_length"):
        np.testing.assert_array_equal(getattr(base, name), getattr(other, name))


@pytest.mark.parametrize("name", list_scenarios())
def test_scenarios_draw_valid_workloads(name: str) -> None:
    scenario = get_scenario(name)
    workload = scenario.workload(load=0.9, num_requests=300)  # it checks itself
    longest = max(workload.prompt_tokens.max(), workload.output_tokens.max())
    assert longest <= getattr(scenario.requests, "longest_tokens", MAX_COUNT)
    assert set(workload.category) == set(range(len(workload.categories)))
    assert scenario.description
    assert workload.source
    if isinstance(scenario.requests, RecordedRequests):
        return  # of a draft head, whose runs depend on where they begin
    # a run counts down to the draft token that is refused
    inside = np.ones(workload.accepted_length.size, bool)
    inside[workload.offset[1:] - 1] = False
    inside &= (workload.accepted_length > 0) & (workload.accepted_length < 255)
    here = np.flatnonzero(inside)
    assert (workload.accepted_length[here + 1] == workload.accepted_length[here] - 1).all()


# -- bad workloads --------------------------------------------------------------------------------


def good_fields() -> dict[str, Any]:
    fields = random_workload(np.random.default_rng(7))
    return fields | {
        "arrival_ns": np.array([0, 5, 5]),
        "prompt_tokens": np.array([3, 1, 2]),
        "output_tokens": np.array([2, 1, 3]),
        "predicted_tokens": np.array([2.0, 1.0, 0.5]),
        "category": np.array([0, 2, 1]),
        "accepted_length": np.array([1, 0, 3, 0, 0, 0], np.uint8),
        "max_draft": None,
        "draft_schedule": None,
        "draft_schedule_offset": None,
        "limits_ns": None,
        "refresh_every": 0,
        "refreshed_tokens": None,
    }


SCHEDULE = {"draft_schedule": np.array([9, 1, 0, 0, 0], np.uint8)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrival_ns": np.zeros(0, int)}, "expected at least 1 request, got 0"),
        ({"arrival_ns": np.array([0, 5, 4])}, r"arrival_ns of request 2: .*non-decreasing.*got 4"),
        ({"arrival_ns": np.array([-1, 5, 5])}, r"arrival_ns of request 0: .*0\.\.1e\+18, got -1"),
        ({"arrival_ns": np.array([0, 5, 2**62])}, r"arrival_ns of request 2: .*1e\+18, got 461"),
        ({"arrival_ns": np.array([0.0, 5.0, np.inf])}, r"expected int64 \[R\], got float64 \(3,\)"),
        ({"arrival_ns": [0, 5, 5]}, r"arrival_ns: expected int64 \[R\], got list"),
        (
            {"prompt_tokens": np.array([3, 0, 2])},
            r"prompt_tokens of request 1: .*1\.\.16777216, got 0",
        ),
        ({"prompt_tokens": np.array([3, 2**63 - 1, 2])}, r"prompt_tokens of request 1: .*16777216"),
        ({"output_tokens": np.array([2, -1, 5])}, r"output_tokens of request 1: .*1\.\..*, got -1"),
        ({"output_tokens": np.array([2.5, 1, 2.5])}, r"expected int64 \[3\], got float64 \(3,\)"),
        # their sum wraps around to the 6 positions that are there
        ({"output_tokens": np.array([2**63 - 1, 2**63 - 1, 8])}, "output_tokens of request 0: "),
        ({"output_tokens": np.array([2, 1])}, r"output_tokens: expected .*\[3\], got .*\(2,\)"),
        (
            {"predicted_tokens": np.array([2, np.nan, 1])},
            "predicted_tokens of request 1: .*got nan",
        ),
        ({"predicted_tokens": np.array([2, 1, 0.0])}, "predicted_tokens of request 2: .*got 0"),
        (
            {"predicted_tokens": np.array([2, 1, 1e300])},
            r"predicted_tokens of request 2: .*1e\+300",
        ),
        ({"predicted_tokens": np.array([1e-300, 1, 1])}, "predicted_tokens of request 0: .*1e-300"),
        ({"predicted_tokens": np.array([2, 1, 1])}, r"expected float64 \[3\], got int64 \(3,\)"),
        ({"category": np.array([0, 3, 1])}, r"category of request 1: expected 0\.\.2, got 3"),
        ({"limits_ns": np.array([[9, 9, 9], [9, 0, 9], [9, 9, 9]])}, "limits_ns of request 1: .*1"),
        ({"accepted_length": np.zeros(5, np.uint8)}, r"accepted_length: .*\[6\], got uint8 \(5,\)"),
        (
            {"accepted_length": np.full(6, 300)},
            r"accepted_length: expected uint8 .*got int64 \(6,\)",
        ),
        ({"accepted_length": None}, r"accepted_length: expected uint8 \[6\], got NoneType"),
        ({"max_draft": np.zeros(7, np.uint8)}, r"max_draft: .*\[6\], got uint8 \(7,\)"),
        (SCHEDULE, "expected draft_schedule and draft_schedule_offset together"),
        (
            SCHEDULE | {"draft_schedule_offset": np.array([0, 1, 5])},
            r"draft_schedule_offset: expected int64 \[4\], got int64 \(3,\)",
        ),
        (
            SCHEDULE | {"draft_schedule_offset": np.array([0.0, 1, 2, 5])},
            r"draft_schedule_offset: expected int64 \[4\], got float64",
        ),
        (
            SCHEDULE | {"draft_schedule_offset": np.array([0, 99, 2, 5])},
            "draft_schedule_offset: expected 0 to 5, non-decreasing",
        ),
        (
            SCHEDULE | {"draft_schedule_offset": np.array([0, 1, 2, 4])},
            "draft_schedule_offset: .*0 to 5",
        ),
        (
            SCHEDULE | {"draft_schedule_offset": np.array([0, 1, 3, 5])},
            "schedule of request 2: expected draft lengths for all of its rounds, got 2",
        ),
        (
            {"draft_schedule": np.full(5, 300), "draft_schedule_offset": np.array([0, 1, 2, 5])},
            r"schedule: expected uint8 \[S\], got int64 \(5,\)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_workloads_name_the_request_and_the_field(
    changes: dict[str, Any], message: str
) -> None:
    make_workload(good_fields())
    make_workload(good_fields() | SCHEDULE | {"draft_schedule_offset": np.array([0, 1, 2, 5])})
    with pytest.raises(ValueError, match=message):
        make_workload(good_fields() | changes)
