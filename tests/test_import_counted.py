"""SGLang's responses and AIPerf's records, which count the rounds of an answer."""

from functools import partial

import numpy as np
import pytest
from import_files import write_lines

from laps_env.traces import TraceError, TraceInfo
from laps_env.traces.importers import LeftOut, import_aiperf, import_sglang

INFO = TraceInfo("eagle", "llama")


@pytest.fixture
def write(tmp_path):
    return partial(write_lines, tmp_path / "math.jsonl")


def rounds_of(trace, draft_length):
    """Rounds that a replay takes, of each request."""
    rounds = np.zeros(trace.num_requests, int)
    for i in range(trace.num_requests):
        position = trace.offset[i]
        while position < trace.offset[i + 1]:
            position += min(trace.accepted_length[position], draft_length) + 1
            rounds[i] += 1
    return rounds


def meta_info(tokens, verified, **members):
    """A response of SGLang's `/generate`."""
    counted = {} if verified is None else {"spec_verify_ct": verified}
    members = {"prompt_tokens": 11, "completion_tokens": tokens, **counted, **members}
    return {"text": "...", "meta_info": {"id": "a", "e2e_latency": 0.5, **members}}


def test_sglangs_responses_take_as_many_rounds_as_verifications(write):
    """401 tokens: one with the prefill, and 160 rounds that accepted 240 draft tokens."""
    trace = import_sglang(write(*[meta_info(401, 160)] * 30), INFO, draft_length=4)
    assert trace.output_tokens.tolist() == [401] * 30
    assert trace.prompt_tokens.tolist() == [11] * 30
    assert (trace.observed_share, trace.categories) == (0.0, ("math",))
    assert rounds_of(trace, 4).mean() == pytest.approx(160, rel=0.02)


@pytest.mark.parametrize(
    "name",
    [
        "spec_num_correct_drafts",
        "spec_accepted_drafts",
        "spec_accept_token_num",
        "spec_accepted_tokens",
    ],
)
def test_sglangs_accepted_tokens_have_had_many_names(write, name):
    said = import_sglang(write(*[meta_info(401, 160, **{name: 60})] * 20), INFO, draft_length=4)
    assert rounds_of(said, 4).mean() == pytest.approx(401 / (1 + 60 / 160), rel=0.02)


def test_sglangs_openai_responses_one_token_answers_and_batches(write):
    chat = {"object": "chat.completion", "choices": [{"index": 0, **meta_info(5, 2)}]}
    alone = meta_info(1, None)  # no verification, so none is counted
    trace = import_sglang(write(chat, alone), INFO, draft_length=4, category="qa")
    assert (trace.output_tokens.tolist(), trace.categories) == ([5, 1], ("qa",))
    batch = import_sglang(write([meta_info(5, 2), alone]), INFO, draft_length=4)
    assert batch.output_tokens.tolist() == [5, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (meta_info(9, None), r"line 2, meta_info\.spec_verify_ct: expected the verifications of a"),
        (
            meta_info(9, None, spec_accept_length=2.5, spec_accept_rate=0.5),
            r"meta_info\.spec_verify_ct: expected the verifications of a server that specul",
        ),
        (meta_info(None, 4), r"meta_info\.completion_tokens: expected an integer, got None"),
        (meta_info(9, 10), r"spec_verify_ct: expected at most one for each of 9 tokens, got 10"),
        (
            meta_info(90, 4),
            r"completion_tokens: expected at most 16 draft tokens accepted in 4 rounds that draft "
            "up to 4, got 85",
        ),
        (
            meta_info(9, 1, spec_num_correct_drafts=5),
            r"meta_info\.spec_num_correct_drafts: expected at most 4 draft tokens accepted in 1",
        ),
        ({"text": "..."}, r"line 2, meta_info: expected a value, got none"),
        ({"choices": [{"index": 0}]}, r"choices\[0\]\.meta_info: expected a value, got none"),
        (meta_info(2**40, 4), r"meta_info\.completion_tokens: expected an integer <= 1048576, got"),
    ],
)
def test_sglang_errors_name_line_and_field(write, line, message):
    with pytest.raises(TraceError, match=message):
        import_sglang(write(meta_info(5, 2), line), INFO, draft_length=4)


def record(output, acceptance=None, metrics=None, **changes):
    """A record of AIPerf."""
    lengths = {
        "input_sequence_length": {"value": 550, "unit": "tokens"},
        "output_sequence_length": {"value": output, "unit": "tokens"},
    }
    said = {} if acceptance is None else {"spec_decode_acceptance": acceptance}
    metadata = {"request_start_ns": 1_759_813_207_532_900_363}
    return {"metadata": metadata, "metrics": lengths | (metrics or {}), **said} | changes


def acceptance(steps, accepted, **members):
    """Rounds of a record as `--export-level records` has them."""
    return {
        "engine": "vllm",
        "acceptance_histogram": {"0": 1},
        "num_accepted_draft_tokens": accepted,
        "num_spec_steps": steps,
        "num_spec_tokens": 5,
        **members,
    }


def test_aiperfs_records_take_as_many_rounds_as_steps(write):
    detailed = record(401, acceptance(160, 240, per_step_accepted=[0] * 160))
    counted = record(
        401,
        metrics={
            "spec_decode_steps": {"value": 160, "unit": "count"},
            "spec_decode_accepted_draft_tokens": {"value": 240, "unit": "tokens"},
        },
    )
    for line in (detailed, counted):
        trace = import_aiperf(write(*[line] * 30), INFO, draft_length=5)
        assert (trace.output_tokens[0], trace.prompt_tokens[0]) == (401, 550)
        assert (trace.observed_share, trace.group.tolist()) == (0.0, list(range(30)))
        assert rounds_of(trace, 5).mean() == pytest.approx(160, rel=0.02)


def test_requests_that_failed_are_left_out_of_the_acceptance(write):
    failed = {"code": 499, "type": "RequestCancellationError"}
    lines = [record(9, error=failed), record(1), record(0), record(9, acceptance(4, 4))]
    report = LeftOut()
    trace = import_aiperf(write(*lines), INFO, draft_length=5, left_out=report)
    assert trace.output_tokens.tolist() == [1, 9]
    assert report.lines == {"without output": 2}
    lines = [meta_info(0, None), meta_info(5, 2)]
    assert import_sglang(write(*lines), INFO, draft_length=4).output_tokens.tolist() == [5]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            record(9),
            "line 2, metrics: expected spec_decode_steps and spec_decode_accepted",
        ),
        (
            record(9, metrics={"spec_decode_steps": 4}),
            r"metrics\.num_accepted_draft_tokens: expected a value, got none",
        ),
        (
            record(None, acceptance(4, 4)),
            r"line 2, metrics\.output_sequence_length: expected an integer >= 1, got None",
        ),
        (
            record(9, acceptance(4, 4, num_spec_tokens=3)),
            r"spec_decode_acceptance\.num_spec_tokens: expected the draft length given, 5, got 3",
        ),
        (
            record(90, acceptance(4, 21)),
            "spec_decode_acceptance: expected at most 20 draft tokens accepted in 4 rounds",
        ),
        (
            record(2**40, acceptance(4, 4)),
            r"line 2, metrics\.output_sequence_length: expected an integer <= 1048576, got 10",
        ),
        (record(9, acceptance(10, 0)), "spec_decode_acceptance: expected at most 9 rounds, got 10"),
        (record(9, acceptance("x", 0)), r"num_spec_steps: expected an integer, got 'x'"),
    ],
)
def test_aiperf_errors_name_line_and_field(write, line, message):
    with pytest.raises(TraceError, match=message):
        import_aiperf(write(record(1), line), INFO, draft_length=5)


@pytest.mark.parametrize("importer", [import_aiperf, import_sglang])
def test_the_draft_length_has_to_be_said(write, importer):
    for draft_length in (0, 256, None):
        with pytest.raises(ValueError, match=r"draft_length: expected an integer [<>]= \d+, got"):
            importer(write(record(1)), INFO, draft_length=draft_length)
