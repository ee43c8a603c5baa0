"""Every other format of recorded arrivals, each read; what is wrong with a log, said."""

import gzip
import json
import tracemalloc
from functools import partial

import pytest
from import_files import write_lines

from laps_env.traces import TraceError
from laps_env.traces.importers import LeftOut, read_arrivals


@pytest.fixture
def write(tmp_path):
    return partial(write_lines, tmp_path / "log")


def told(trace):
    """What a trace holds, as lists."""
    return tuple(
        column.tolist() for column in (trace.arrival_ns, trace.prompt_tokens, trace.output_tokens)
    )


S = 10**9


def test_vidur(write):
    """Floats as numpy writes them; what pandas adds in front is not read."""
    head = ",arrived_at,num_prefill_tokens,num_decode_tokens"
    trace = read_arrivals(write(head, "0,5.2e-05,374,44", "1,2.5000520000000001,396.0,109.0"))
    assert told(trace) == ([0, 2_500_000_000], [374, 396], [44, 109])
    assert trace.form == "Vidur's CSV"


def test_numbers_as_pandas_writes_them(write):
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    path = write(head, "5.0,GPT-4,472.0,18.0,490.0,x", "6.0,GPT-4,472.5,18.0,490.0,x")
    with pytest.raises(
        TraceError, match=r"line 3, Request tokens: expected an integer >= 1, got '"
    ):
        read_arrivals(path)
    assert told(read_arrivals(path, on_error="skip")) == ([0], [472], [18])
    line = {"timestamp": 5.0, "input_length": 472.0, "output_length": 18.0}
    assert told(read_arrivals(write(line))) == ([0], [472], [18])
    with pytest.raises(
        TraceError, match=r"line 1, input_length: expected an integer >= 1, got 0.5"
    ):
        read_arrivals(write(line | {"input_length": 0.5}))


def test_gzip_and_json_arrays_are_told_by_their_content(tmp_path):
    rows = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(rows))
    assert told(read_arrivals(path)) == ([0], [4808], [10])
    lines = [{"timestamp": 3000 * k, "input_length": 5, "output_length": 6} for k in range(2)]
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(lines, indent=2).encode())
    assert told(read_arrivals(path)) == ([0, 3 * S], [5, 5], [6, 6])
    path.write_text(json.dumps([*lines, lines[0]]))
    with pytest.raises(
        TraceError, match="entry 2, timestamp: expected a time not before the entry"
    ):
        read_arrivals(path)


NAMES = {"arrival": "at", "prompt": "in", "output": "out"}


@pytest.mark.filterwarnings("ignore:.*are the times in another unit")
def test_columns_of_any_csv_can_be_named(write):
    path = write('id,at,"in",out', "a,1000,5,6", 'b,"4500.5",7,8')
    trace = read_arrivals(path, columns=NAMES, unit="ms")
    assert told(trace) == ([0, 3_500_500_000], [5, 7], [6, 8])
    report = LeftOut()
    assert read_arrivals(path, columns=NAMES, left_out=report).arrival_ns[-1] == 3500.5 * S
    assert report.assumed == ["at: times are in s (--unit)"]
    path = write("at,in,out", "2026-11-16 18:17:03,5,6", "2026-11-16 18:17:04.5,5,6")
    assert told(read_arrivals(path, columns=NAMES))[0] == [0, 1_500_000_000]
    for columns, unit, message in (
        (NAMES, "s", "unit: expected none for times of the calendar, got 's'"),
        ({"arrival": "at"}, None, r"columns: expected arrival=NAME,prompt=NAME,output=NAME and no"),
        (NAMES | {"user": "u"}, None, "columns: expected arrival=NAME"),
        (NAMES | {"id": "name"}, None, "line 1, name: expected one column of that name, of"),
    ):
        with pytest.raises(ValueError, match=message):
            read_arrivals(path, columns=columns, unit=unit)
    with pytest.raises(ValueError, match="columns: expected none for JSON, got"):
        read_arrivals(write({"timestamp": 1}), columns=NAMES)


#: As `vllm bench serve --save-result --save-detailed` writes it, the texts left out.
RESULT = {
    "date": "20260102-030405",
    "completed": 2,
    "failed": 1,
    "input_lens": [100, 200, 9],
    "output_lens": [3, 2, 0],
    "ttfts": [0.1, 0.2, 0.0],
    "itls": [[0.05, 0.07], [0.1], []],
    "start_times": [5011.5, 5010.0, 5012.0],
    "generated_texts": ["a", "b", ""],
    "errors": ["", "", "Connection refused"],
}


@pytest.mark.parametrize("indent", [None, 2])
def test_vllms_benchmark(write, indent):
    report = LeftOut()
    path = write(json.dumps(RESULT, indent=indent))
    with pytest.raises(
        TraceError, match="entry 2, errors: expected none, got 'Connection refused'"
    ):
        read_arrivals(path)
    trace = read_arrivals(path, on_failed="skip", left_out=report)
    assert told(trace) == ([0, 1_500_000_000], [200, 100], [2, 3])
    assert report.lines == {"without output": 1}
    with pytest.raises(ValueError, match="unit: expected none for the seconds of vLLM's benchmark"):
        read_arrivals(path, unit="s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start_times": None}, r"start_times: expected a list, got None .*--save-detailed"),
        (
            {"start_times": [1.0]},
            "start_times: expected lists of one length, got {'start_times': 1",
        ),
        ({"output_lens": [3, "2", 0]}, r"output_lens\[1\]: expected an integer, got '2'"),
        ({"start_times": [1.0, -2.0, 3.0]}, r"entry 1, start_times: expected a number in 0 \.\. 9"),
        ({"errors": [], "output_lens": [3, 2, 0]}, "expected lists of one length"),
        ({"errors": None}, "entry 2, output_lens: expected an integer >= 1, got 0"),
    ],
)
def test_errors_of_vllms_benchmark_name_the_list(write, change, message):
    with pytest.raises(TraceError, match=message):
        read_arrivals(write(RESULT | change))


def test_a_benchmark_without_details_is_refused(write):
    with pytest.raises(TraceError, match="expected one JSON object, got Extra data: line 2"):
        read_arrivals(write(RESULT, RESULT))  # --append-result
    with pytest.raises(
        TraceError, match=r"start_times: expected a value, got none .*--save-detail"
    ):
        read_arrivals(write({"date": "20260102", "input_lens": [1], "output_lens": [1]}))


def profiled(start_ns, name, **changes):
    """A record of AIPerf's profile_export.jsonl, most of its members left out."""
    metadata = {"session_num": 45, "x_request_id": name, "request_start_ns": start_ns}
    metrics = {
        "input_sequence_length": {"value": 550, "unit": "tokens"},
        "output_sequence_length": {"value": 9, "unit": "tokens"},
        "request_latency": {"value": 297.5, "unit": "ms"},
    }
    return {"metadata": metadata, "metrics": metrics, "error": None} | changes


BEGIN = 1_759_813_207_532_900_363


def test_aiperf(write):
    """Records come as the answers end; one failed; a metric may be plain."""
    plain = {"input_sequence_length": 3, "output_sequence_length": 4.0}
    failed = {"code": 499, "type": "RequestCancellationError"}
    lines = [
        profiled(BEGIN + 7, "a"),
        profiled(BEGIN, "b", metrics=plain),
        profiled(BEGIN, "c", metrics={"error_isl": {"value": 550}}, error=failed),
    ]
    with pytest.raises(TraceError, match=r"line 3, error: expected none, got \{'code': 499"):
        read_arrivals(write(*lines))
    trace = read_arrivals(write(*lines), on_failed="skip")
    assert told(trace) == ([0, 7], [3, 550], [4, 9])
    for line, message in (
        (
            profiled(BEGIN, "a"),
            "line 3, metadata.x_request_id: expected one that no line above has",
        ),
        (profiled(None, "d"), "line 3, metadata.request_start_ns: expected an integer or a number"),
        (
            profiled(1, "d", metrics={}),
            "metrics.input_sequence_length: expected an integer >= 1, got",
        ),
    ):
        with pytest.raises(TraceError, match=message):
            read_arrivals(write(*lines[:2], line))
    with pytest.raises(ValueError, match="unit: expected none for AIPerf's request_start_ns"):
        read_arrivals(write(*lines), unit="ns")


def turn(session=None, **members):
    named = {} if session is None else {"session_id": session}
    return {"input_length": 5, "output_length": 6, **named, **members}


def test_delays_follow_the_turn_before(write):
    """Turns of two sessions; a timestamp counts where there is one."""
    report = LeftOut()
    lines = [
        turn("a", timestamp=1000),
        turn("a", delay=500.5),
        turn("b", timestamp=1200),
        turn("a", timestamp=9000, delay=1),
        turn("a", delay=0),
        turn(timestamp=1300),
    ]
    trace = read_arrivals(write(*lines), left_out=report)
    assert trace.arrival_ns.tolist() == [ms * 10**6 for ms in (0, 200, 300)] + [
        500_500_000,
        8 * S,
        8 * S,
    ]
    assert report.assumed[1] == (
        "delay: 2 turns without a timestamp come so long after the arrival of the turn before, "
        "as if its answer took no time"
    )
    for line, message in (
        (turn("c", delay=3), "line 2, timestamp: expected one in the first turn of 'c', got none"),
        (turn(delay=3), "line 2, timestamp: expected one in the first turn of None, got none"),
        (turn("a"), "line 2, timestamp: expected a value, got none"),
        (turn("a", delay=-1), "line 2, delay: expected"),
        (turn("a", delay=1e15), "line 2, delay: expected a number in 0"),
    ):
        with pytest.raises(TraceError, match=message):
            read_arrivals(write(lines[0], line))


def test_a_log_in_another_order_is_sorted_where_that_is_said(write):
    lines = [turn(timestamp=time, output_length=time) for time in (3000, 1000, 2000)]
    with pytest.raises(TraceError, match=r"line 2, timestamp: .* 2000000000 ns before it .*--sort"):
        read_arrivals(write(*lines))
    assert told(read_arrivals(write(*lines), sort=True))[2] == [1000, 2000, 3000]


def test_names_may_not_be_repeated(write):
    path = write("id,at,in,out", "a,1,5,6", "b,2,5,6", ",3,5,6", ",4,5,6", "a,5,5,6")
    columns = NAMES | {"id": "id"}
    with pytest.raises(TraceError, match="line 6, id: expected one that no line above has, got it"):
        read_arrivals(path, columns=columns)
    report = LeftOut()
    trace = read_arrivals(path, columns=columns, on_error="skip", left_out=report)
    assert trace.arrival_ns.tolist() == [0, S, 2 * S, 3 * S]
    assert report.lines == {"malformed": 1}
    lines = [turn(timestamp=k, chat_id=7) for k in range(2)]  # Bailian's
    with pytest.raises(TraceError, match="line 2, chat_id: expected one that no line above has"):
        read_arrivals(write(*lines))


def test_requests_without_prompt_or_output_are_counted_by_kind(write):
    lines = [
        turn(timestamp=0),
        turn(timestamp=1, input_length=0),
        turn(timestamp=2) | {"output_length": 0},
    ]
    with pytest.raises(TraceError, match="line 2, input_length: expected an integer >= 1, got 0"):
        read_arrivals(write(*lines))
    report = LeftOut()
    assert told(read_arrivals(write(*lines), on_failed="skip", left_out=report))[0] == [0]
    assert report.lines == {"without prompt": 1, "without output": 1}


def test_a_gap_of_days_is_warned_of_with_its_line(write):
    days = [0, 0.9, 2.4, 2.5, 4.5]
    path = write("at,in,out", *(f"{day * 86_400},5,6" for day in days))
    message = "line 4, at: expected a request within a day .*, got 1.5 days, and 1 more such gaps"
    with pytest.warns(UserWarning, match=message), pytest.warns(UserWarning, match="a second"):
        read_arrivals(path, columns=NAMES)


def test_a_long_log_takes_little_memory(write):
    """40 bytes a line with its name, and as much again while they are put in order."""
    count = 100_000
    path = write("id,at,in,out", *(f"r{k},{k // 7},{k % 90 + 1},5" for k in range(count)))
    tracemalloc.start()
    trace = read_arrivals(path, columns=NAMES | {"id": "id"}, unit="s")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert trace.arrival_ns.size == count
    assert peak < 100 * count
