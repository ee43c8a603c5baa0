"""SpecDecode-Bench's accept lengths, and EAGLE's answers, of which only the totals are known."""

from functools import partial

import numpy as np
import pytest
from import_files import write_lines

from laps_env.traces import TraceError, TraceInfo
from laps_env.traces.importers import import_eagle, import_spec_bench, import_specdecode_bench
from laps_env.traces.importers.totals import alpha_of_rounds

EAGLE = TraceInfo("eagle", "llama")


@pytest.fixture
def write(tmp_path):
    return partial(write_lines, tmp_path / "combined_math.jsonl")


#: A record as in the public files: each drafter answered in a run of its own.
RECORD = {
    "id": "134",
    "prompt_token_ids": [5] * 4,
    "generated_token_ids": [1, 2, 3],
    "acc_eagle": {"acc_len": [1, 5, 4, 300, 1]},
    "acc_ngram": {"acc_len": [1, 3, 2]},
}


def test_an_output_is_as_long_as_its_drafters_accept_lengths(write):
    trace = import_specdecode_bench(write(RECORD, RECORD), EAGLE)
    assert trace.output_tokens.tolist() == [5, 5]  # and not 3, as generated_token_ids
    assert trace.accepted_length.tolist() == [0, 4, 3, 255, 0] * 2
    assert (trace.observed_share, trace.prompt_tokens.tolist()) == (1.0, [4, 4])
    assert trace.categories == ("math",)
    other = import_specdecode_bench(write(RECORD), TraceInfo("ngram", "llama"), category="maths")
    assert (other.accepted_length.tolist(), other.categories) == ([0, 2, 1], ("maths",))
    alone = {"prompt_token_ids": [5], "acc": {"acc_len": [1, 2]}}
    assert import_specdecode_bench(write(alone), EAGLE).accepted_length.tolist() == [0, 1]


def test_data_sets_of_one_drafter_make_one_trace(tmp_path):
    names = ("combined_gsm8k.jsonl", "combined_cnn.jsonl")
    paths = [write_lines(tmp_path / name, RECORD, RECORD) for name in names]
    trace = import_specdecode_bench(paths, EAGLE)
    assert trace.categories == ("cnn", "gsm8k")
    assert trace.category.tolist() == [1, 1, 0, 0]
    assert trace.group.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (RECORD | {"acc_eagle": {}}, r"line 1, acc_eagle\.acc_len: expected a value, got none"),
        (
            RECORD | {"acc_eagle": {"acc_len": [0]}},
            r"acc_len\[0\]: expected an integer >= 1, got 0",
        ),
        (RECORD | {"prompt_token_ids": []}, "prompt_token_ids: expected a list of length >= 1"),
        (
            {"prompt_token_ids": [5], "acc_ngram": {}},
            r"acc_eagle: expected accept lengths of the drafter 'eagle', got \['acc_ngram'\]",
        ),
    ],
)
def test_specdecode_bench_errors_name_line_and_field(write, line, message):
    with pytest.raises(TraceError, match=message):
        import_specdecode_bench(write(line), EAGLE)


#: A line of EAGLE's repository, its texts left out: 335 and 127 rounds.
ANSWER = {
    "question_id": 81,
    "model_id": "llama-2-chat-70b-fp16-ea-in-temperature-0.0",
    "choices": [
        {
            "index": 0,
            "turns": ["x", "y"],
            "idxs": [334, 126],
            "new_tokens": [1026, 471],
            "wall_time": [54.54170489311218, 23.111661911010742],
        }
    ],
    "tstamp": 1702393934.5149436,
}


def with_choice(**members):
    return ANSWER | {"choices": [ANSWER["choices"][0] | members]}


def test_eagles_answers_take_as_many_rounds_in_a_replay_as_they_took(write, tmp_path):
    questions = {"question_id": 81, "category": "writing", "turns": ["a" * 9, "b" * 4]}
    asked = write_lines(tmp_path / "question.jsonl", questions)
    answers = [ANSWER | {"question_id": 81 + k} for k in range(30)]
    with pytest.raises(TraceError, match="turn: expected a turn of question 82 in the question fi"):
        import_eagle(write(*answers), EAGLE, draft_length=5, questions=asked)
    trace = import_eagle(write(*answers), EAGLE, draft_length=5)
    assert trace.output_tokens.tolist() == [1026, 471] * 30
    assert trace.group.tolist() == [81 + k // 2 for k in range(60)]
    assert (trace.observed_share, trace.categories) == (0.0, ("combined_math",))
    assert trace.schedule is None
    rounds = np.zeros(60, int)
    for i in range(60):
        position = trace.offset[i]
        while position < trace.offset[i + 1]:
            position += min(trace.accepted_length[position], 5) + 1
            rounds[i] += 1
    assert rounds[::2].mean() == pytest.approx(335, rel=0.02)
    assert rounds[1::2].mean() == pytest.approx(127, rel=0.04)  # drawn towards the longer turns
    one = import_eagle(write(ANSWER), EAGLE, draft_length=5, questions=asked, seed=1)
    assert (one.categories, one.prompt_tokens.tolist()) == (("writing",), [3, 4 + 1026])
    assert one.info.provenance["model_id"] == ANSWER["model_id"]


def test_alpha_of_a_mean_round():
    """alpha + alpha^2 = 3/4 at alpha = 1/2; a single draft token is accepted at alpha itself."""
    np.testing.assert_allclose(
        alpha_of_rounds(np.array([0.75, 0.0, 2.0]), 2), [0.5, 0, 1], atol=1e-9
    )
    np.testing.assert_allclose(alpha_of_rounds(np.array([0.3]), 1), [0.3])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (with_choice(idxs=[334]), r"choices\[0\]\.idxs: expected 2 turns by new_tokens, got 1"),
        (
            with_choice(idxs=[5, 126]),
            "new_tokens, turn 0: expected 6 .. 36 tokens of 6 rounds that",
        ),
        (with_choice(new_tokens=[1026, 9]), "turn 1: expected 127 .. 762 tokens of 127 rounds"),
        (with_choice(new_tokens=[2**40, 9]), r"new_tokens\[0\]: expected an integer <= 1048576"),
        (with_choice(idxs=None), r"choices\[0\]\.idxs: expected a list, got None"),
    ],
)
def test_eagle_errors_name_line_turn_and_field(write, line, message):
    with pytest.raises(TraceError, match=message):
        import_eagle(write(line), EAGLE, draft_length=5)


def test_eagles_answers_are_told_from_spec_benchs(write):
    message = r"accept_lengths: expected tokens committed per round, got none .*import eagle"
    with pytest.raises(TraceError, match=message):
        import_spec_bench(write(ANSWER | {"category": "qa"}), EAGLE, plain_draft=False)
    for draft_length in (0, 256, None, "heuristic"):
        with pytest.raises(ValueError, match=r"draft_length: expected an integer [<>]= \d+, got"):
            import_eagle(write(ANSWER), EAGLE, draft_length=draft_length)
