"""Step logs: written by a server, read as a trace, as arrivals and as steps."""

from __future__ import annotations

import gzip
from functools import partial

import pytest
from import_files import STEPS_HEADER, left, step, write_lines

from laps_env.cli import main
from laps_env.traces import AcceptanceTrace, TraceError
from laps_env.traces.importers import LeftOut, import_steps, read_arrivals
from laps_env.traces.step_log import EngineStep, LeftRequest, RunHeader, StepLogWriter, StepShare

#: Of (id, cached, scheduled, drafted, committed): a prompt of 6 in two parts, a round of 2 of 3
#: accepted, a round without a draft, a computation after a pre-emption, and an end that cuts the
#: last round; beside it one that is aborted and one that never leaves.
A_RUN = [
    STEPS_HEADER,
    step(10.0, 0.03, ("a", 0, 4, 0, 0), ("b", 0, 3, 0, 1)),
    step(10.1, 0.05, ("a", 4, 2, 0, 1), ("b", 3, 4, 3, 4)),
    left("b", 9.5, prompt_tokens=3, output_tokens=5, reason="abort"),
    step(10.2, 0.07, ("a", 6, 4, 3, 3), ("c", 0, 2, 0, 1)),
    step(10.3, 0.06, ("a", 9, 1, 0, 1)),
    step(10.4, 0.09, ("a", 0, 11, 0, 1)),
    step(10.5, 0.08, ("a", 11, 3, 2, 2)),
    left("a", 9.0, prompt_tokens=6, output_tokens=8, predicted_tokens=7.5, category="chat"),
]


@pytest.fixture
def write(tmp_path):
    return partial(write_lines, tmp_path / "in.jsonl")


def test_every_step_of_a_completed_request_is_a_round(write):
    left_out = LeftOut()
    trace = import_steps(write(*A_RUN), left_out=left_out)
    assert trace.committed.tolist() == [1, 3, 1, 1, 2]
    assert trace.schedule.tolist() == [0, 3, 0, 0, 2]
    assert trace.round_ns.tolist() == [50_000_000, 70_000_000, 60_000_000, 90_000_000, 80_000_000]
    starts = [0, 1, 4, 5, 6]
    assert trace.max_draft[starts].tolist() == [0, 255, 0, 0, 2]  # 3 is all that is ever asked for
    assert trace.accepted_length[1] == 2
    assert trace.observed.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]  # the end decides nothing
    assert trace.replay().tolist() == trace.committed.tolist()
    assert (trace.prompt_tokens[0], trace.predicted_tokens[0]) == (6, 7.5)
    assert trace.categories == ("chat",)
    assert (trace.info.drafter, trace.info.target_model) == ("ngram", "big")
    assert (trace.info.provenance["batch_size"], trace.info.provenance["draft_length"]) == (4, 3)
    assert left_out.lines == {"aborted": 1, "not finished": 1}
    assert "request 'c'" in left_out.first["not finished"]


def test_a_plain_draft_model_tells_the_positions_that_a_round_passes(write):
    header = STEPS_HEADER | {"drafter": "draft_model", "draft": "small"}
    trace = import_steps(write(header, *A_RUN[1:]))
    assert trace.info.consistent
    assert trace.accepted_length[1:4].tolist() == [2, 1, 0]
    assert trace.observed[1:4].tolist() == [1, 1, 1]


def test_predictions_are_taken_over_where_all_have_one(write):
    more = [step(11.0, 0.1, ("d", 0, 6, 0, 1)), left("d", 11.0, output_tokens=1)]
    assert import_steps(write(*A_RUN, *more)).predicted_tokens is None
    more[1]["request"]["predicted_tokens"] = 2.0
    trace = import_steps(write(*A_RUN, *more))
    assert trace.predicted_tokens.tolist() == [7.5, 2.0]
    assert trace.categories == ("chat", "in")


def test_ids_of_a_server_that_started_again_are_others(write):
    again = [step(20.0, 0.1, ("c", 0, 6, 0, 1)), left("c", 20.0, output_tokens=1)]
    left_out = LeftOut()
    trace = import_steps(write(*A_RUN, STEPS_HEADER, *again), left_out=left_out)
    assert trace.output_tokens.tolist() == [8, 1]
    assert left_out.lines == {"aborted": 1, "not finished": 1}


@pytest.mark.parametrize("compressed", [False, True])
def test_a_line_that_a_killed_server_left_is_not_read(write, compressed):
    path = write(*A_RUN)
    path.write_bytes(path.read_bytes() + b'{"step": {"at_s": 10.6, "dura')
    if compressed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    left_out = LeftOut()
    assert import_steps(path, left_out=left_out).num_requests == 1
    assert left_out.lines["cut off"] == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (left("c", 9.0, output_tokens=2), "request.output_tokens: expected the 1 tokens of its st"),
        (left("x", 9.0, output_tokens=0), "request.output_tokens: expected the 0 tokens of its st"),
        (left("a", 9.0, output_tokens=8), "request.id: expected one that has not left, got 'a'"),
        (left("c", 9.0, output_tokens=1, reason="end"), "request.reason: expected another value"),
        (left("c", 9.0, predicted_tokens=float("nan")), "request.predicted_tokens: expected a nu"),
        (step(1, 0.1, ("c", 2, 3, 3, 1)), r"step.requests\[0\].scheduled: expected 4 or more with"),
        (step(1, 0.1, ("c", 2, 3, 2, 4)), r"step.requests\[0\].committed: expected at most drafte"),
        (step(1, -0.1), "step.duration_s: expected a number >= 0.0, got -0.1"),
        ({}, r"expected a member step or request, got \[\]"),
        (STEPS_HEADER | {"version": 2}, "version: expected 1, got 2"),
        (
            STEPS_HEADER | {"target": "other"},
            "target: expected 'big' as in the first line, got 'ot",
        ),
    ],
)
def test_what_is_wrong_is_named(write, line, message):
    path = write(*A_RUN, line)
    with pytest.raises(TraceError, match=rf"in.jsonl: line 10[,:] {message}"):
        import_steps(path)
    left_out = LeftOut()
    assert import_steps(path, on_error="skip", left_out=left_out).num_requests == 1
    assert left_out.lines["malformed"] == 1


def test_a_log_begins_with_its_header(write):
    with pytest.raises(TraceError, match="line 1, format: expected 'laps-env steps', got None"):
        import_steps(write(*A_RUN[1:]))
    with pytest.raises(TraceError, match=r"in\.jsonl: expected a completed request, got none"):
        import_steps(write(*A_RUN[:-1]))


def test_arrivals_of_a_log_are_in_their_order(write):
    trace = read_arrivals(write(*A_RUN, left("late", 12.0, output_tokens=9)))
    assert trace.arrival_ns.tolist() == [0, 500_000_000, 3_000_000_000]
    assert trace.prompt_tokens.tolist() == [6, 3, 6]
    assert trace.output_tokens.tolist() == [8, 5, 9]
    again = [STEPS_HEADER, left("a", 1.0, output_tokens=9)]
    with pytest.raises(TraceError, match=r"arrival_s: expected one clock for all servers"):
        read_arrivals(write(*A_RUN, *again))


def test_a_writer_goes_on_behind_the_last_whole_line(tmp_path):
    path = tmp_path / "steps.jsonl"
    header = RunHeader("vllm 0.32.0", "big", "ngram", "", "a processor", "float32", 4, 3)
    served = EngineStep(1.0, 0.1, [StepShare("a", 0, 6, 0, 1)])
    for arrival_s in (0.5, 1.5):
        with StepLogWriter(path, header) as log:
            log.add_step(served)
            log.add_request(LeftRequest("a", arrival_s, 2.0, 6, 1, None, "chat", "stop"))
        path.write_bytes(path.read_bytes() + b'{"step": {"at')
    assert import_steps(path).output_tokens.tolist() == [1, 1]
    assert read_arrivals(path).arrival_ns.tolist() == [0, 1_000_000_000]
    written = path.read_bytes()
    with pytest.raises(ValueError, match=r"expected a step log of .*other.*, got a file that begi"):
        StepLogWriter(path, RunHeader("vllm", "other", "", "", "a processor", "float32", 4, 3))
    assert path.read_bytes() == written


def test_the_command_reads_both_from_one_file(write, tmp_path, capsys):
    path, runs = write(*A_RUN), tmp_path / "runs.safetensors"
    main(["import", "steps", str(path), str(runs)])
    main(["import", "arrivals", str(path), str(tmp_path / "arrivals.jsonl")])
    printed = capsys.readouterr().out
    assert "left out: 1 aborted, the first: " in printed
    assert "1 requests of 1 categories, 12% of their positions observed" in printed
    assert "arrivals.jsonl: 2 requests in 0 s" in printed
    assert AcceptanceTrace.load(runs).round_ns.tolist()[:2] == [50_000_000, 70_000_000]
