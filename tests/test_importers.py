"""Importers: tiny files written by hand, and the recorded runs where they are at hand."""

import gzip
import json
import tracemalloc
from datetime import datetime

import numpy as np
import pytest

from laps_env.traces import AcceptanceTrace, TraceError, TraceInfo
from laps_env.traces.importers import (
    LeftOut,
    import_spec_bench,
    import_specdecode_bench,
    import_vllm,
    read_arrivals,
)
from laps_env.traces.importers.records import MAX_LINE_BYTES

INFO = TraceInfo("draft-model", "big", "small")


def ones(rng, category, observed_alpha, count):
    return np.ones(count, bool)


def zeros(rng, category, observed_alpha, count):
    return np.zeros(count, bool)


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "in.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts) + "\n")
        return path

    return write


# Rounds: drafts 2, accepts 1 (bits 1 0); drafts 2, accepts 2 (bits 1 1 ?); drafts 3, accepts 1,
# and the output ends (bits 1 ?).
TURN = {"q": 5, "turn": 0, "cat": "qa", "n": 7, "a": [2, 3, 2], "g": [2, 2, 3]}


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


def answer(**choice):
    values = {
        "turns": ["x", "y"],
        "idxs": [1, 1],
        "new_tokens": [5, 3],
        "wall_time": [1.0, 1.0],
        "accept_lengths": [3, 2, 1, 2],
    }
    choices = [{"index": 0, **values, **choice}]
    return {"question_id": 81, "category": "writing", "choices": choices}


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


def test_empty_and_damaged_files(tmp_path):
    path = tmp_path / "in.jsonl.gz"
    for content, message in (
        (b"", "expected at least one request, got none"),
        (b"\n\n", "expected at least one request, got none"),
        (gzip.compress(json.dumps(TURN).encode() * 50)[:-20], "line 1: expected gzip, got"),
        (b"\x1f\x8bnothing", "line 1: expected gzip, got"),
        (b"\xff\xfe", "line 1: expected a JSON object"),
        (b"[" * 100_000, "line 1: expected a JSON object"),
    ):
        path.write_bytes(content)
        with pytest.raises(TraceError, match=message):
            import_spec_bench(path, INFO, plain_draft=True)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_line_that_does_not_fit_into_memory_is_refused(tmp_path, on_error):
    path = tmp_path / "in.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(json.dumps(TURN).encode() + b"\n")
        for _ in range(16):
            file.write(b" " * MAX_LINE_BYTES)
    tracemalloc.start()
    with pytest.raises(TraceError, match=r"line 2: expected at most 16777216 bytes, got more"):
        import_spec_bench(path, INFO, plain_draft=True, on_error=on_error)
    assert tracemalloc.get_traced_memory()[1] < 4 * MAX_LINE_BYTES
    tracemalloc.stop()


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


USAGE = {"prompt_tokens": 20, "completion_tokens": 4}


def response(completion_tokens, accepted, **changes):
    detail = {"num_spec_tokens": 3, "per_step_accepted": accepted, **changes}
    usage = USAGE | {"completion_tokens": completion_tokens}
    return {"id": "c-1", "usage": usage, "metrics": {"speculative_decoding": detail}}


def test_vllm_metrics(write):
    cut = response(7, [1, 3], per_step_drafted=[2, 3]) | {"category": "chat", "group": 9}
    trace = import_vllm(write(response(4, [0, 1]), cut), INFO, plain_draft=True)
    assert trace.committed.tolist() == [1, 1, 2, 1, 2, 4]
    assert trace.schedule.tolist() == [0, 3, 3, 0, 2, 3]
    assert [trace.categories[i] for i in trace.category] == ["unknown", "chat"]
    assert trace.prompt_tokens.tolist() == [20, 20]
    assert trace.group.tolist() == [0, 9]
    # The last step may run past the end of the output: 5 of 1 + 2 + 4 tokens.
    trace = import_vllm(write(response(5, [1, 3])), INFO, plain_draft=False)
    assert trace.committed.tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (response(9, [1, 3]), "steps that commit 8 tokens after the first .* got 6"),
        (response(3, [1, 3]), "steps that end with the output of 3 tokens, got 7"),
        (response(4, [4]), r"per_step_accepted\[0\]: expected at most 3 drafted, got 4"),
        (response(4, [1], per_step_drafted=[1, 1]), "per_step_drafted: expected 1 steps, got 2"),
        (response(4, None), "per_step_accepted: expected a list, got None"),
        (
            response(4, [2], num_spec_tokens=300),
            "num_spec_tokens: expected an integer <= 255, got 300",
        ),
        ({"usage": {}}, r"usage\.prompt_tokens: expected a value, got none"),
        ({"usage": USAGE}, "line 1, metrics: expected a value, got none"),
        ({"usage": USAGE, "metrics": {}}, r"metrics\.speculative_decoding: expected a value"),
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


def test_specdecode_bench(write):
    row = {"id": "1", "prompt_token_ids": [5] * 4, "generated_token_ids": [1, 2, 3]}
    row["acc_ngram"] = {"acc_len": [1, 3, 300]}
    keys = {"drafter": "acc_ngram", "category": "math"}
    trace = import_specdecode_bench(write(row, row), INFO, **keys)
    assert trace.accepted_length.tolist() == [0, 2, 255] * 2
    assert (trace.observed_share, trace.prompt_tokens.tolist()) == (1.0, [4, 4])
    row["generated_token_ids"] = [1, 2]
    with pytest.raises(TraceError, match=r"line 1, acc_ngram\.acc_len: expected 2 output pos"):
        import_specdecode_bench(write(row), INFO, **keys)
    with pytest.raises(TraceError, match="line 1, acc_eagle: expected a value, got none"):
        import_specdecode_bench(write(row), INFO, drafter="acc_eagle", category="math")


@pytest.fixture
def write_csv(write):
    def write_csv(*lines):
        path = write(*lines)
        return path.rename(path.with_suffix(".csv"))

    return write_csv


HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens"
ROW = "2023-11-16 18:17:03.9799600,4808,10"


def test_azure_times_are_exact(write_csv):
    trace = read_arrivals(write_csv(HEAD, ROW, "2023-11-16 18:17:04.0000001,7,8", ""))
    assert trace.arrival_ns.tolist() == [0, 20_040_100]
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([4808, 7], [10, 8])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["TIMESTAMP,ContextTokens", ROW], "line 1, GeneratedTokens: expected one column"),
        ([HEAD], "expected at least one request"),
        ([HEAD, ROW, "2023-11-16 18:17:03,1,1"], "line 3, TIMESTAMP: expected a time not before"),
        ([HEAD, ROW, "2023-11-31 18:17:03,1,1"], "line 3, TIMESTAMP: expected a time of the cal"),
        ([HEAD, ROW, "NaT,1,1"], "line 3, TIMESTAMP: expected YYYY"),
        ([HEAD, ROW, ROW.replace("4808", "0")], "line 3, ContextTokens: expected an integer >= 1"),
        ([HEAD, ROW, ROW[:-2] + "-1"], "line 3, GeneratedTokens: expected an integer >= 1, got '-"),
        ([HEAD, ROW, ROW[:-2] + "ten"], "line 3, GeneratedTokens: expected an integer >= 1"),
        ([HEAD, ROW, ROW[:-3]], "line 3, row: expected 3 values, got 2"),
    ],
)
def test_azure_errors_name_line_and_column(write_csv, lines, message):
    with pytest.raises(TraceError, match=message):
        read_arrivals(write_csv(*lines))


def test_azure_of_2024_has_a_time_zone(write_csv):
    times = ["2024-05-10 00:00:00.009930+00:00", "2024-05-10 00:00:01Z"]
    trace = read_arrivals(write_csv(HEAD, *(f"{time},3,4" for time in times)))
    assert trace.arrival_ns.tolist() == [0, 990_070_000]
    with pytest.raises(TraceError, match="in UTC, got '2024-05-10 00:00:00-07:00'"):
        read_arrivals(write_csv(HEAD, "2024-05-10 00:00:00-07:00,3,4"))


BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"


def test_burstgpt(write_csv):
    rows = ["5,ChatGPT,472,18,490,Conversation log", "45.5,GPT-4,1087,230,1317,API log"]
    trace = read_arrivals(write_csv(BURST, *rows))
    assert trace.arrival_ns.tolist() == [0, 40_500_000_000]
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([472, 1087], [18, 230])
    failed = "46,GPT-4,9,0,9,API log"
    with pytest.raises(TraceError, match="line 4, Response tokens: expected an integer >= 1"):
        read_arrivals(write_csv(BURST, *rows, failed))
    left_out = LeftOut()
    trace = read_arrivals(write_csv(BURST, *rows, failed), on_failed="skip", left_out=left_out)
    assert trace.arrival_ns.size == 2
    assert left_out.lines == {"without output": 1}
    with pytest.raises(TraceError, match=r"line 2, Timestamp: expected seconds in 0 \.\. 9e\+09"):
        read_arrivals(write_csv(BURST, "soon,ChatGPT,1,1,2,API log"))


def test_files_of_no_known_format_are_refused(write_csv, tmp_path):
    with pytest.raises(TraceError, match=r"header: expected a column TIMESTAMP \(Azure\) or Times"):
        read_arrivals(write_csv("a,b", "1,2"))
    with pytest.raises(TraceError, match=r"expected a \.csv, \.jsonl or \.jsonl\.gz file"):
        read_arrivals(tmp_path / "trace.txt")


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_bad_lines_can_be_skipped_and_are_counted(write, write_csv, ending):
    """A good line, then: not a line of the format, a bad number, a time before, a good line."""
    if ending == ".csv":
        times = "2023-11-16 18:17:0"
        lines = [HEAD, times + "3,5,6", "1", times + "3,x,6", times + "1,5,6", times + "4,7,8"]
        path, first = write_csv(*lines), 3
    else:
        good = [
            {"timestamp": t, "input_length": n, "output_length": n + 1}
            for t, n in ((3000, 5), (1000, 5), (4000, 7))
        ]
        path, first = write(good[0], "1", good[0] | {"input_length": "x"}, *good[1:]), 2
    with pytest.raises(TraceError, match=f"line {first}"):
        read_arrivals(path)
    left_out = LeftOut()
    trace = read_arrivals(path, on_error="skip", left_out=left_out)
    assert trace.arrival_ns.tolist() == [0, 10**9]
    assert trace.prompt_tokens.tolist() == [5, 7]
    assert left_out.lines == {"malformed": 3}
    assert f"line {first}" in left_out.first["malformed"]
    with pytest.raises(ValueError, match=r"on_error: expected one of raise, skip; got 'ignore'"):
        read_arrivals(path, on_error="ignore")


def test_mooncake(write):
    row = {"timestamp": 27_482, "input_length": 6955, "output_length": 52, "hash_ids": [46]}
    later = row | {"timestamp": 27_482.5}
    assert read_arrivals(write(row, later)).arrival_ns.tolist() == [0, 500_000]
    for change, message in (
        ({"timestamp": 3}, "line 2, timestamp: expected a time not before"),
        *(
            ({"timestamp": time}, f"line 2, timestamp: expected .*number.*, got {shown}")
            for time, shown in (
                *(("3", "'3'"), (-1, "-1"), (float("nan"), "nan"), (float("inf"), "inf")),
                *((1e13, "10000000000000.0"), (1e300, r"1e\+300"), (10**400, "1000")),
            )
        ),
        ({"input_length": 0}, "line 2, input_length: expected an integer >= 1"),
        ({"output_length": None}, "line 2, output_length: expected an integer, got None"),
        ({"output_length": -1}, "line 2, output_length: expected an integer >= 0, got -1"),
        ({"output_length": 0}, "line 2, output_length: expected an integer >= 1"),
    ):
        with pytest.raises(TraceError, match=message):
            read_arrivals(write(row, row | change))


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


@pytest.mark.parametrize(("name", "count"), [("conv", 19_366), ("code", 8_819)])
def test_recorded_arrivals(shared_data, name, count):
    path = shared_data / f"arrivals/AzureLLMInferenceTrace_{name}.csv"
    trace = read_arrivals(path)
    assert len(trace.arrival_ns) == len(trace.prompt_tokens) == len(trace.output_tokens) == count
    assert trace.arrival_ns[0] == 0
    assert (np.diff(trace.arrival_ns) > 0).all()
    lines = path.read_text().splitlines()
    first, last = (datetime.fromisoformat(lines[k].split(",")[0][:26]) for k in (1, count))
    assert trace.arrival_ns[-1] == pytest.approx((last - first).total_seconds() * 1e9, abs=1e3)
