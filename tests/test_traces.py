"""The trace format: round trips, and every kind of damage named."""

import json
import pickle
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save

from laps_env.traces import AcceptanceTrace, TraceError, TraceInfo

ARRAYS = [
    "accepted_length",
    "offset",
    "output_tokens",
    "prompt_tokens",
    "category",
    "max_draft",
    "observed",
    "group",
    "schedule",
    "schedule_offset",
    "committed",
]


def small_trace(**changes):
    """Two requests of 4 and 3 tokens; bits 1101 | 000, draft length 2."""
    values = {
        "accepted_length": np.array([2, 1, 0, 1, 0, 0, 0], np.uint8),
        "offset": np.array([0, 4, 7]),
        "output_tokens": np.array([4, 3]),
        "prompt_tokens": np.array([10, 0]),
        "category": np.array([1, 0]),
        "categories": ("code", "qa"),
        "info": TraceInfo("draft-model", "big", "small", {"temperature": 0.0}, consistent=True),
        "observed": np.array([1, 1, 1, 0, 1, 1, 1], np.uint8),
        "group": np.array([7, 8]),
        "schedule": np.array([2, 2, 2, 2, 2], np.uint8),
        "schedule_offset": np.array([0, 2, 5]),
        "committed": np.array([3, 1, 1, 1, 1], np.uint8),
    }
    return AcceptanceTrace(**(values | changes))


def assert_same(a, b):
    for name in ARRAYS:
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is not None:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y, err_msg=name)
    assert (a.categories, a.info) == (b.categories, b.info)


def test_round_trip(tmp_path):
    path = tmp_path / "t.safetensors"
    trace = small_trace()
    trace.save(path)
    read = AcceptanceTrace.load(path)
    assert_same(trace, read)
    assert read.source == str(path)
    assert read.observed_share == pytest.approx(6 / 7)
    assert not read.accepted_length.flags.writeable
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]  # nothing left beside it
    assert load_file(path)["schedule"].tolist() == [2] * 5  # for any reader of safetensors


@st.composite
def traces(draw):
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    total, count = sum(lengths), len(lengths)
    runs = st.lists(st.integers(0, 255), min_size=total, max_size=total)
    optional = {
        "max_draft": st.none() | runs,
        "observed": st.none() | st.lists(st.integers(0, 1), min_size=total, max_size=total),
    }
    trace = AcceptanceTrace(
        accepted_length=np.array(draw(runs), np.uint8),
        offset=np.cumsum([0, *lengths]),
        output_tokens=np.array(lengths),
        prompt_tokens=np.arange(count),
        category=np.zeros(count, np.int64),
        categories=(draw(st.text(max_size=5)),),
        info=TraceInfo(draw(st.text(max_size=5)), "t", provenance={"n": [1, None, "x"]}),
        schedule=np.array([4] * total, np.uint8),
        schedule_offset=np.cumsum([0, *lengths]),
        **{
            name: None if (value := draw(strategy)) is None else np.array(value, np.uint8)
            for name, strategy in optional.items()
        },
    )
    # One round per token is right only where nothing is accepted; else leave the rounds out.
    if trace.accepted_length.any():
        return replace(trace, schedule=None, schedule_offset=None)
    return trace


@settings(max_examples=60, deadline=None)
@given(trace=traces())
def test_any_trace_survives_the_file(tmp_path_factory, trace):
    path = tmp_path_factory.mktemp("any") / "t.safetensors"
    trace.save(path)
    assert_same(trace, AcceptanceTrace.load(path))
    before = path.read_bytes()
    AcceptanceTrace.load(path).save(path)
    assert path.read_bytes() == before


def split_file(raw):
    """Header and data of a safetensors file."""
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def joined(header, data):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def told(text=None, **members):
    """A file whose document has other members (... leaves one out), or is another text."""

    def damage(raw):
        header, data = split_file(raw)
        document = json.loads(header["__metadata__"]["trace"]) | members
        whole = json.dumps({k: v for k, v in document.items() if v is not ...})
        header["__metadata__"]["trace"] = whole if text is None else text
        return joined(header, data)

    return damage


def described(**members):
    """A file whose description of `accepted_length` is another."""

    def damage(raw):
        header, data = split_file(raw)
        header["accepted_length"] |= members
        return joined(header, data)

    return damage


def stored(**arrays):
    """A whole file with other arrays; None leaves one out."""

    def damage(raw):
        header, _ = split_file(raw)
        written = {name: getattr(small_trace(), name) for name in ARRAYS} | arrays
        kept = {name: array for name, array in written.items() if array is not None}
        return save(kept, header["__metadata__"])

    return damage


def bfloat16(raw):
    """A whole file with numbers of two bytes that NumPy lacks."""
    return described(dtype="BF16")(stored(accepted_length=np.zeros(7, np.uint16))(raw))


SOURCE = {"drafter": "d", "target_model": "t"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: b"", "expected safetensors, got"),
        (lambda raw: b"PK\x03\x04" + raw[4:], "expected safetensors, got"),
        (lambda raw: raw[:100], "expected safetensors, got"),
        (lambda raw: raw[:-1], "expected safetensors, got"),
        (lambda raw: raw + b"\0", "expected safetensors, got"),
        (lambda raw: (2**63).to_bytes(8, "little") + raw[8:], "expected safetensors, got"),
        (lambda raw: raw[:8] + b"[" + raw[9:], "expected safetensors, got"),
        (described(dtype="object"), "expected safetensors, got"),
        (described(shape=[6]), "expected safetensors, got"),
        (described(shape=[2**62, 4]), "expected safetensors, got"),
        (described(data_offsets=[0, 7]), "expected safetensors, got"),
        (lambda raw: b"ATRACE\r\n" + raw, "version: expected 2, got 1: record the trace, or"),
        (lambda raw: save({"accepted_length": np.zeros(3)}), "format: expected 'laps-env accept"),
        (told(version=1), "version: expected 2, got 1"),
        (told(version=2.0), "version: expected 2, got 2.0"),
        (told(version=True), "version: expected 2, got True"),
        (told(format="zip"), "format: expected 'laps-env acceptance trace', got 'zip'"),
        (told(format=...), "format: expected 'laps-env acceptance trace', got None"),
        (told("{"), "header: expected JSON, got"),
        (told("[" * 100_000), "header: expected JSON, got"),
        (told(info={**SOURCE, "created": float("nan")}), "header: expected JSON, got"),
        (told("[]"), r"expected an object, got \[\]"),
        (told(info=...), "info: expected a value, got none"),
        (told(info=[]), r"info: expected an object, got \[\]"),
        (told(info={}), "info.drafter: expected a value, got none"),
        (told(info={**SOURCE, "x": 1}), "info.x: expected no such member"),
        (told(info={**SOURCE, "decoding": 1}), "info.decoding: expected an object, got 1"),
        (told(other=1), "other: expected no such member"),
        (told(categories={}), "categories: expected a list, got {}"),
        (told(categories=[]), r"categories: expected distinct names, .* got \[\]"),
        (told(categories=["a", "a"]), "categories: expected distinct names"),
        (stored(offset=None), "offset: expected a 1-d int64 array, got none"),
        (stored(extra=np.zeros(1)), "extra: expected one of output_tokens, .* an unknown array"),
        (stored(accepted_length=np.zeros(7)), "accepted_length: expected .*, got 1-d float64"),
        (stored(accepted_length=np.zeros((7, 1), np.uint8)), "expected a 1-d .* got 2-d uint8"),
        (bfloat16, "accepted_length: expected a type of NumPy's, got BF16"),
        (stored(accepted_length=np.zeros(6, np.uint8)), "expected 7 entries, .*, got 6"),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage, message):
    path = tmp_path / "t.safetensors"
    small_trace().save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TraceError, match=message) as caught:
        AcceptanceTrace.load(path)
    assert str(caught.value).startswith(f"{path}: ")


class Armed:
    """Unpickling this would raise."""

    def __reduce__(self):
        return (pytest.fail, ("loading a trace executed something",))


def test_a_pickle_is_not_executed(tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(pickle.dumps(Armed()))
    with pytest.raises(TraceError, match="expected safetensors"):
        AcceptanceTrace.load(path)
    np.save(path.with_suffix(".npy"), np.array([Armed()], object), allow_pickle=True)
    with pytest.raises(TraceError, match="expected safetensors"):
        AcceptanceTrace.load(path.with_suffix(".npy"))


INT = np.int64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_tokens": np.array([4, -3])}, "request 1, output_tokens: expected >= 1, got -3"),
        ({"output_tokens": np.array([4, 2])}, "request 1, offset: expected 2, got 3"),
        ({"output_tokens": np.array([], INT), "offset": np.array([0]), "prompt_tokens": np.array(
            [], INT), "category": np.array([], INT), "group": None, "schedule_offset": np.array(
            [0])}, "output_tokens: expected at least one request"),
        ({"prompt_tokens": np.array([-1, 3])}, "request 0, prompt_tokens: expected >= 0, got -1"),
        ({"category": np.array([1, 2])}, r"request 1, category: expected 0 .. 1, got 2"),
        ({"group": np.array([1])}, "group: expected 2 entries, one per request, got 1"),
        ({"offset": np.array([1, 5, 8])}, "request 0, offset: expected a start at 0"),
        ({"offset": np.array([0.0, 4, 7])}, "offset: expected a 1-d int64 array, got 1-d float64"),
        ({"accepted_length": np.zeros(6, np.uint8)},
         "accepted_length: expected 7 entries, one per position, got 6"),
        ({"accepted_length": np.array([2, 1, 0, 1, 0, 2, 0], np.uint8)},
         r"request 1, accepted_length\[2\]: expected 1 after 2, got 0"),
        ({"observed": np.array([1, 1, 1, 1, 1, 3, 1], np.uint8)},
         r"request 1, observed\[1\]: expected 0 or 1, got 3"),
        ({"schedule": None}, "schedule: expected the draft length"),
        ({"schedule_offset": np.array([0, 0, 5])}, "request 0, schedule_offset: expected >= 1"),
        ({"schedule": np.array([2, 2, 2], np.uint8)},
         "schedule: expected 5 entries, one per round, got 3"),
        ({"schedule_offset": np.array([0, 3, 5])}, "request 0, schedule: expected 2 rounds, got 3"),
        ({"schedule_offset": np.array([0, 2, 4]), "schedule": np.full(4, 2, np.uint8),
          "committed": None}, "request 1, schedule: .* 1 tokens missing"),
        ({"committed": np.array([3, 1, 1, 2, 1], np.uint8)},
         r"request 1, committed\[1\]: expected 1 by accepted_length and schedule, got 2"),
        ({"categories": ("x", 3)}, "categories: expected distinct names"),
        ({"info": TraceInfo("d", "t", consistent=cast(bool, 1))},
         "info.consistent: expected true or false, got 1"),
        ({"info": TraceInfo("d", "t", decoding={"temperature": float("nan")})}, "header: expected"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(tmp_path, changes, message):
    path = tmp_path / "t.safetensors"
    with pytest.raises(TraceError, match=message) as caught:
        small_trace(**changes).save(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert not list(tmp_path.iterdir())


def test_capped_runs_are_consistent():
    run = np.minimum(np.arange(300, 0, -1), 255).astype(np.uint8)
    one = np.array([300])
    trace = small_trace(
        accepted_length=run, output_tokens=one, offset=np.array([0, 300]), prompt_tokens=one,
        category=one * 0, group=None, observed=None, schedule=None, schedule_offset=None,
        committed=None,
    )  # fmt: skip
    trace.validate()


def test_replay_with_max_draft():
    trace = small_trace(
        max_draft=np.array([1, 0, 2, 2, 2, 2, 2], np.uint8),
        schedule=np.full(6, 2, np.uint8),
        schedule_offset=np.array([0, 3, 6]),
        committed=np.array([2, 1, 1, 1, 1, 1], np.uint8),
    )
    trace.validate()
    np.testing.assert_array_equal(trace.replay(), trace.committed)
    # accepted 1 of the 1 max_draft, then 0 of 2 (the last round never counts as a rejection)
    np.testing.assert_array_equal(trace.recorded_alpha(), [1 / 2, 0])


def test_a_replay_costs_what_its_rounds_do():
    """One request of 200,000 rounds among 50,000 short ones: no round is looked at by all."""
    lengths = np.ones(50_000, INT)
    lengths[7] = 200_000
    total, offset = lengths.sum(), np.concatenate([[0], np.cumsum(lengths)])
    trace = AcceptanceTrace(
        accepted_length=np.zeros(total, np.uint8),
        offset=offset,
        output_tokens=lengths,
        prompt_tokens=lengths,
        category=lengths * 0,
        categories=("qa",),
        info=TraceInfo("ngram", "big"),
        schedule=np.full(total, 4, np.uint8),
        schedule_offset=offset,
    )
    small_trace().replay()  # compiles
    began = time.perf_counter()
    assert (trace.replay() == 1).all()
    assert time.perf_counter() - began < 3  # 26 s, once


def test_split_keeps_groups_together(tmp_path):
    count = 40
    trace = AcceptanceTrace(
        accepted_length=np.arange(2 * count, dtype=np.uint8),
        offset=np.arange(0, 2 * count + 1, 2),
        output_tokens=np.full(count, 2),
        prompt_tokens=np.ones(count, INT),
        category=np.zeros(count, INT),
        categories=("qa",),
        info=TraceInfo("eagle", "big"),
        group=np.arange(count) // 2,
    )
    train, rest = trace.split(seed=3, train_share=0.7)
    assert (train.num_requests, rest.num_requests) == (28, 12)
    assert not set(train.group) & set(rest.group)
    for part in (train, rest):
        part.validate()
        np.testing.assert_array_equal(part.accepted_length[::2] // 4, part.group)
    assert_same(train, trace.split(seed=3, train_share=0.7)[0])
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(TraceError, match="train_share"):
            trace.split(seed=3, train_share=share)


def test_export_jsonl(tmp_path):
    path = tmp_path / "t.jsonl"
    small_trace().export_jsonl(path)
    head, first, second = (json.loads(line) for line in Path(path).read_text().splitlines())
    assert (head["version"], head["info"]["target_model"]) == (2, "big")
    assert first == {
        "request": 0, "category": "qa", "output_tokens": 4, "accepted_length": [2, 1, 0, 1],
        "prompt_tokens": 10, "observed": [1, 1, 1, 0], "group": 7, "schedule": [2, 2],
        "committed": [3, 1],
    }  # fmt: skip
    assert second["accepted_length"] == [0, 0, 0]
