"""Spec-Bench's answers and their reduced form: rounds become runs, the rest is filled."""

import gzip
import json
from functools import partial

import numpy as np
import pytest
from import_files import INFO, TURN, answer, write_lines

from laps_env.traces import AcceptanceTrace, TraceError
from laps_env.traces.importers import import_spec_bench


def ones(rng, category, observed_alpha, count):
    return np.ones(count, bool)


def zeros(rng, category, observed_alpha, count):
    return np.zeros(count, bool)


@pytest.fixture
def write(tmp_path):
    return partial(write_lines, tmp_path / "in.jsonl")


def test_bits_of_a_plain_draft_model(write):
    trace = import_spec_bench(write(TURN), INFO, plain_draft=True, fill=zeros)
    assert trace.accepted_length.tolist() == [1, 0, 2, 1, 0, 1, 0]
    assert trace.observed.tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert trace.info.consistent
    assert trace.info.provenance["filled_share"] == pytest.approx(5 / 7, abs=1e-6)
    longer = import_spec_bench(write(TURN), INFO, plain_draft=True, fill=ones)
    assert longer.accepted_length.tolist() == [1, 0, 5, 4, 3, 2, 1]
    for each in (trace, longer):
        assert each.replay().tolist() == TURN["a"]
    assert trace.recorded_alpha().tolist() == [4 / 5]  # the last round is no rejection


def test_without_bits_only_decided_rounds_are_known(write):
    trace = import_spec_bench(write(TURN), INFO, plain_draft=False, fill=zeros)
    assert trace.accepted_length.tolist() == [1, 0, 2, 0, 0, 1, 0]
    assert trace.observed.tolist() == [1, 0, 0, 0, 0, 0, 0]
    longer = import_spec_bench(write(TURN), INFO, plain_draft=False, fill=ones)
    assert longer.accepted_length.tolist() == [1, 6, 5, 4, 3, 2, 1]
    assert longer.replay().tolist() == TURN["a"]


def test_the_fill_gets_the_shrunk_rate_and_a_stream_per_request(write):
    seen = []

    def fill(rng, category, observed_alpha, count):
        seen.append((category, observed_alpha, count, rng.random()))
        return np.zeros(count, bool)

    other = TURN | {"q": 6, "cat": "code", "n": 2, "a": [1, 1], "g": [4, 4]}
    import_spec_bench(write(TURN, other, TURN), INFO, plain_draft=True, fill=fill, seed=1)
    # qa: 8 of 10 accepted, by Laplace 9 / 12; a request's own 4 of 5 with 20 more at that rate.
    assert [row[:3] for row in seen] == [
        ("qa", pytest.approx((4 + 20 * 9 / 12) / 25), 2),
        ("code", pytest.approx((0 + 20 / 3) / 21), 1),
        ("qa", pytest.approx((4 + 20 * 9 / 12) / 25), 2),
    ]
    assert len({row[3] for row in seen}) == 3


def test_answer_file_turns_and_draft_lengths(write, tmp_path):
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"question_id": 81, "turns": ["a" * 9, "b" * 4]}))
    path = write(answer())
    trace = import_spec_bench(
        path, INFO, plain_draft=False, draft_length=5, questions=questions, seed=4
    )
    assert trace.output_tokens.tolist() == [5, 3]
    assert trace.group.tolist() == [81, 81]
    assert trace.prompt_tokens.tolist() == [3, 4 + 5]
    assert trace.schedule.tolist() == [5] * 4
    assert trace.committed.tolist() == [3, 2, 1, 2]
    own = answer(draft_lengths=[2, 4, 3, 1], decoding_steps=[2, 2])
    given = import_spec_bench(write(own), INFO, plain_draft=True)
    assert given.schedule.tolist() == [2, 4, 3, 1]
    own = answer(accept_lengths=[3, 2, 1, 2], new_tokens=[8], idxs=[4], turns=["x"])
    guessed = import_spec_bench(write(own), INFO, plain_draft=True, draft_length="heuristic")
    assert guessed.schedule.tolist() == [5, 4, 3, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: expected a JSON object"),
        ("[]", r"line 2: expected a JSON object, got \[\]"),
        (TURN | {"n": 8}, "line 2, a: expected a sum of n = 8, got 7"),
        (TURN | {"n": 0}, "line 2, n: expected an integer >= 1, got 0"),
        (TURN | {"a": [2, 5, 0]}, r"line 2, a\[2\]: expected an integer >= 1, got 0"),
        (TURN | {"a": [2, 256, 2]}, r"line 2, a\[1\]: expected an integer <= 255, got 256"),
        (TURN | {"a": [2, 3, 2.0]}, r"line 2, a\[2\]: expected an integer, got 2.0"),
        (TURN | {"a": []}, r"line 2, a: expected a list of length >= 1, got \[\]"),
        (TURN | {"g": [2, 2]}, "line 2, g: expected 3 rounds, got 2"),
        (TURN | {"g": [2, 1, 3]}, "line 2, g: expected at least 2 drafted in round 1, got 1"),
        ({k: v for k, v in TURN.items() if k != "g"}, "line 2, g: expected draft lengths"),
        ({k: v for k, v in TURN.items() if k != "cat"}, "line 2, cat: expected a value, got none"),
        (TURN | {"cat": 3}, "line 2, cat: expected a text, got 3"),
        (answer(), "turn 0, draft_lengths: expected draft lengths"),
        (
            answer(accept_lengths=[0]),
            r"choices\[0\]\.accept_lengths\[0\]: expected an integer >= 1",
        ),
        (answer(draft_lengths=[5]), "draft_lengths: expected 4 rounds, got 1"),
        (answer(new_tokens=[4, 4]), "accept_lengths, turn 0: expected rounds that sum to 4, got 5"),
        (
            answer(new_tokens=[5, 4], draft_lengths=[5] * 4),
            "accept_lengths, turn 1: expected rounds that sum to 9, got 8",
        ),
        (answer(new_tokens=[5], draft_lengths=[9] * 4), "expected 2 rounds by new_tokens, got 4"),
        (answer(idxs=[3, 1]), "idxs, turn 0: expected 2 rounds"),
        (answer(decoding_steps=[1, 2]), "decoding_steps, turn 0: expected 2 rounds"),
        (
            {"question_id": 1, "category": "qa", "choices": []},
            "choices: expected a list of length >= 1",
        ),
    ],
)
def test_spec_bench_errors_name_line_and_field(write, line, message):
    path = write(TURN, line)
    with pytest.raises(TraceError, match=message) as caught:
        import_spec_bench(path, INFO, plain_draft=True)
    assert str(caught.value).startswith(f"{path}: line 2")


@pytest.mark.parametrize("draft_length", [-1, 256, 2.0, True, "long"])
def test_draft_lengths_that_a_trace_cannot_hold(write, draft_length):
    with pytest.raises(ValueError, match=r"draft_length: expected an integer [<>]= \d+, got"):
        import_spec_bench(write(answer()), INFO, plain_draft=True, draft_length=draft_length)


def test_guessed_draft_lengths_stop_at_what_a_trace_can_hold(write):
    accepted = [min(5 + 2 * k, 254) for k in range(140)]  # all that was drafted, again and again
    line = {"q": 1, "turn": 0, "cat": "c", "a": [a + 1 for a in accepted]}
    line["n"] = sum(line["a"])
    trace = import_spec_bench(write(line), INFO, plain_draft=True, draft_length="heuristic")
    assert trace.schedule[[0, 1, 124]].tolist() == [5, 7, 253]
    assert trace.schedule[125:].tolist() == [255, *[254, 255] * 7]


ROUNDS = "acceptance/vicuna7b_vicuna68m_rounds.jsonl.gz"


@pytest.mark.parametrize(("plain_draft", "filled"), [(True, 0.473), (False, 0.693)])
@pytest.mark.parametrize("fill", [zeros, ones, None])
def test_recorded_turns_replay_exactly(shared_data, tmp_path, plain_draft, filled, fill):
    options = {} if fill is None else {"fill": fill}
    imported = import_spec_bench(
        shared_data / ROUNDS, INFO, plain_draft=plain_draft, seed=2, **options
    )
    imported.save(tmp_path / "runs.safetensors")
    trace = AcceptanceTrace.load(tmp_path / "runs.safetensors")
    with gzip.open(shared_data / ROUNDS) as file:
        rows = [json.loads(line) for line in file]
    assert trace.num_requests == len(rows) == 560
    # The arithmetic of a round, written out: every round of every turn commits what was recorded.
    for i, row in enumerate(rows):
        run = trace.accepted_length[trace.offset[i] : trace.offset[i + 1]].tolist()
        position = 0
        for committed, drafted in zip(row["a"], row["g"], strict=True):
            assert committed == min(min(run[position], drafted) + 1, len(run) - position)
            position += committed
        assert position == len(run) == row["n"]
    assert 1 - trace.observed_share == pytest.approx(filled, abs=0.001)


def test_recorded_alpha_is_that_of_the_study(shared_data):
    trace = import_spec_bench(shared_data / ROUNDS, INFO, plain_draft=True)
    alpha = np.percentile(trace.recorded_alpha(), [5, 50, 95])
    np.testing.assert_allclose(alpha, [0.28, 0.58, 0.81], atol=0.015)
