"""vLLM's speculative metrics, in the forms in which people hold them."""

import json
from functools import partial

import pytest
from import_files import INFO, response, write_lines

from laps_env.traces import TraceError
from laps_env.traces.importers import LeftOut, import_vllm

USAGE = {"prompt_tokens": 20, "completion_tokens": 4}


@pytest.fixture
def write(tmp_path):
    return partial(write_lines, tmp_path / "in.jsonl")


def test_vllm_metrics(write):
    cut = response(7, [1, 3], per_step_drafted=[2, 3]) | {"category": "chat", "group": 9}
    trace = import_vllm(write(response(4, [0, 1]), cut), INFO, plain_draft=True)
    assert trace.committed.tolist() == [1, 1, 2, 1, 2, 4]
    assert trace.schedule.tolist() == [0, 3, 3, 0, 2, 3]
    assert [trace.categories[i] for i in trace.category] == ["in", "chat"]
    assert trace.prompt_tokens.tolist() == [20, 20]
    assert trace.group.tolist() == [0, 9]
    # The last step may run past the end of the output: 5 of 1 + 2 + 4 tokens.
    trace = import_vllm(write(response(5, [1, 3])), INFO, plain_draft=False)
    assert trace.committed.tolist() == [1, 2, 2]


ONE = {"prompt_tokens": 9, "completion_tokens": 1}
MISSING = response(1, None)
del MISSING["metrics"]["speculative_decoding"]["per_step_accepted"]


@pytest.mark.parametrize(
    "line",
    [
        response(1, [], per_step_drafted=[]),
        response(1, None),
        MISSING,
        {"usage": ONE, "metrics": {"speculative_decoding": None}},
        {"usage": ONE, "metrics": None},
        {"usage": ONE},
    ],
)
def test_an_answer_of_one_token_has_the_prefills_round_alone(write, line):
    trace = import_vllm(write(line, response(4, [2])), INFO, plain_draft=True)
    assert trace.output_tokens.tolist() == [1, 4]
    assert trace.schedule_offset.tolist() == [0, 1, 3]
    assert (trace.schedule.tolist(), trace.committed.tolist()) == ([0, 0, 3], [1, 1, 3])


METRICS = {"num_spec_steps": 2, "num_spec_tokens": 3, "per_step_accepted": [1, 3]}


@pytest.mark.parametrize(
    "lines",
    [
        [response(7, [1, 3])],
        [f"data: {json.dumps(response(7, [1, 3]))}", "", "data: [DONE]"],
        [f"data:{json.dumps(response(7, [1, 3]))}"],
        [{"data": response(7, [1, 3]), "path": "/v1/completions"}],
        [{"prompt_tokens": 20, "metrics": METRICS | {"per_step_drafted": [3, 3]}}],
        [{"prompt_tokens": 20, "metrics": METRICS}],
    ],
    ids=["response", "stream", "no space", "proxy", "raw_requests", "no per_step_drafted"],
)
def test_responses_are_read_in_the_forms_in_which_people_hold_them(write, lines):
    """1 token of the prefill, 2 and 4 of two steps, of 7 tokens in all."""
    trace = import_vllm(write(*lines), INFO, plain_draft=True)
    assert trace.output_tokens.tolist() == [7]
    assert trace.prompt_tokens.tolist() == [20]
    assert (trace.schedule.tolist(), trace.committed.tolist()) == ([0, 3, 3], [1, 2, 4])


def test_members_that_a_client_adds_beside_a_capture_count(write):
    line = {"data": response(4, [2]), "category": "chat", "group": 3}
    trace = import_vllm(write(line), INFO, plain_draft=True)
    assert (trace.categories, trace.group.tolist()) == (("chat",), [3])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            response(4, [2], num_spec_tokens=5),
            r"num_spec_tokens: expected one run, of 3 as .*, got 5",
        ),
        (response(4, [2]) | {"model": "c"}, r"model: expected one run, of 'b' as .*, got 'c'"),
    ],
)
def test_responses_of_two_servers_are_no_run(write, other, message):
    path = write(response(4, [2]) | {"model": "b"}, other)
    for on_error in ("raise", "skip"):  # no line is malformed
        with pytest.raises(TraceError, match=message):
            import_vllm(path, INFO, plain_draft=True, on_error=on_error)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (response(9, [1, 3]), "steps that commit 8 tokens after the first .* got 6"),
        (response(3, [1, 3]), "steps that end with the output of 3 tokens, got 7"),
        (response(4, [4]), r"per_step_accepted\[0\]: expected at most 3 drafted, got 4"),
        (response(4, [1], per_step_drafted=[1, 1]), "per_step_drafted: expected 1 steps, got 2"),
        (response(4, None), "per_step_accepted: expected the steps of an answer .*, got none"),
        (response(4, "1"), "per_step_accepted: expected a list or null, got '1'"),
        (response(4, []), "steps that commit 3 tokens after the first .* got 0"),
        (response(4, [2], num_spec_tokens=None), "num_spec_tokens: expected draft lengths, .* got"),
        (
            response(4, [2], num_spec_tokens=300),
            "num_spec_tokens: expected an integer <= 255, got 300",
        ),
        ({"usage": {}}, r"usage\.prompt_tokens: expected a value, got none"),
        ({"usage": {"prompt_tokens": 3}}, r"usage\.completion_tokens: expected a value, got none"),
        ({"usage": USAGE}, "per_step_accepted: expected the steps of an answer .*, got none"),
        ({"usage": USAGE, "metrics": {}}, "per_step_accepted: expected the steps of an answer"),
        ({"data": {"usage": {}}}, r"usage\.prompt_tokens: expected a value, got none"),
        ({"prompt_tokens": 3, "metrics": {}}, "per_step_accepted: expected the steps of an answer"),
    ],
)
def test_vllm_errors(write, line, message):
    with pytest.raises(TraceError, match=message):
        import_vllm(write(line), INFO, plain_draft=True)


def test_a_bad_response_takes_no_good_ones_with_it(write):
    left_out = LeftOut()
    path = write(response(4, [0, 1]), "{", response(9, [1, 3]), response(4, [2]))
    trace = import_vllm(path, INFO, plain_draft=True, on_error="skip", left_out=left_out)
    assert trace.output_tokens.tolist() == [4, 4]
    assert left_out.lines == {"malformed": 2}
    assert f"{path}: line 2: expected a JSON object" in left_out.first["malformed"]
