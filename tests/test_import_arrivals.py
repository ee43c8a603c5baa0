"""Recorded arrivals: the right times from every format, and what is wrong named."""

import warnings
from datetime import datetime
from functools import partial

import numpy as np
import pytest
from import_files import write_lines

from laps_env.traces import TraceError
from laps_env.traces.importers import LeftOut, read_arrivals


@pytest.fixture
def write(tmp_path):
    return partial(write_lines, tmp_path / "in.jsonl")


@pytest.fixture
def write_csv(tmp_path):
    return partial(write_lines, tmp_path / "in.csv")


def mooncake(timestamp, **more):
    return {"timestamp": timestamp, "input_length": 521, "output_length": 132, **more}


#: As in the files of Bailian, whose times are seconds.
CHAT, NEXT = (
    {"chat_id": 159 + k, "parent_chat_id": 55, "type": "text", "turn": 2} for k in range(2)
)

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
    times = ["2024-05-10T00:00:00-07:00", "2024-05-10 00:00:02-07:00"]
    trace = read_arrivals(write_csv(HEAD, *(f"{time},3,4" for time in times)))
    assert trace.arrival_ns.tolist() == [0, 2 * 10**9]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("", "+00:00", "line 3, TIMESTAMP: expected the time zone of the first, which says none"),
        ("Z", "", r"expected the time zone of the first, \+00:00, got '2024-05-10 00:00:01'"),
        ("-07:00", "-06:00", "expected the time zone of the first, -07:00, got '2024-05-10 00:00"),
    ],
)
def test_time_zones_may_not_be_mixed(write_csv, first, second, message):
    rows = f"2024-05-10 00:00:00{first},3,4", f"2024-05-10 00:00:01{second},3,4"
    with pytest.raises(TraceError, match=message):
        read_arrivals(write_csv(HEAD, *rows))


def test_what_was_assumed_is_said(write, write_csv):
    def assumed(path, **given):
        report = LeftOut()
        read_arrivals(path, left_out=report, **given)
        return report.assumed

    assert assumed(write_csv(HEAD, ROW)) == ["TIMESTAMP: times without a zone are UTC"]
    assert assumed(write_csv(HEAD, ROW.replace(",4808", "Z,4808"))) == []
    assert assumed(write(mooncake(1))) == ["timestamp: times are in ms (--unit)"]
    assert assumed(write(mooncake(1, **CHAT))) == ["timestamp: times are in s (--unit)"]
    assert assumed(write(mooncake(1)), unit="us") == []


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
    for time, message in (
        ("soon", r"line 2, Timestamp: expected a number in s, got 'soon'"),
        ("9000000000.1", r"line 2, Timestamp: expected a number in 0 \.\. 9000000000 s, got"),
    ):
        with pytest.raises(TraceError, match=message):
            read_arrivals(write_csv(BURST, f"{time},ChatGPT,1,1,2,API log"))


TIMES = [
    (
        "csv",
        None,
        [HEAD, "2023-11-16 18:17:03.5,3,4", "2023-11-16 18:17:05.2500001,3,4"],
        1_750_000_100,
    ),
    ("csv", None, [BURST, "5,GPT-4,3,4,7,x", "45.5,GPT-4,3,4,7,x"], 40_500_000_000),
    ("csv", "ms", [BURST, "5,GPT-4,3,4,7,x", "45.5,GPT-4,3,4,7,x"], 40_500_000),
    ("jsonl", None, [mooncake(27_482), mooncake(28_482.5)], 1_000_500_000),
    ("jsonl", "s", [mooncake(3), mooncake(61.114)], 58_114_000_000),  # GuideLLM
    ("jsonl", "us", [mooncake(3), mooncake(500_003)], 500_000_000),
    ("jsonl", "ns", [mooncake(2**60), mooncake(2**60 + 10**9 + 1)], 1_000_000_001),
    ("jsonl", None, [mooncake(3, **CHAT), mooncake(61.114, **NEXT)], 58_114_000_000),  # Bailian
    ("jsonl", "ms", [mooncake(3, **CHAT), mooncake(500.5, **NEXT)], 497_500_000),
]


@pytest.mark.parametrize(("ending", "unit", "lines", "gap_ns"), TIMES)
def test_times_are_read_in_their_unit(tmp_path, ending, unit, lines, gap_ns):
    path = write_lines(tmp_path / f"in.{ending}", *lines)
    assert read_arrivals(path, unit=unit).arrival_ns.tolist() == [0, gap_ns]


def test_a_unit_of_no_use_is_refused(write, write_csv):
    with pytest.raises(ValueError, match="unit: expected none for times of the calendar, got 's'"):
        read_arrivals(write_csv(HEAD, ROW), unit="s")
    with pytest.raises(ValueError, match="unit: expected one of s, ms, us, ns; got 'min'"):
        read_arrivals(write(mooncake(1)), unit="min")


@pytest.mark.parametrize(
    ("gap_s", "unit", "said"),
    [
        (9.66, "s", None),  # as Bailian's 400 requests in 3,855 s
        (9.66, "ms", "400 in 3.85434 s: are the times in another unit"),
        (152, "us", "400 in 0.060648 s: are the times in another unit"),
        (152, "s", "400 in 60648 s: are the times in another unit"),  # Mooncake's milliseconds
    ],
)
def test_an_absurd_rate_is_warned_of(write, gap_s, unit, said):
    path = write(*(mooncake(gap_s * k) for k in range(400)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_arrivals(path, unit=unit)
    assert [said in str(warning.message) for warning in caught] == ([] if said is None else [True])
    assert all(warning.filename == __file__ for warning in caught)


def test_files_of_no_known_format_are_refused(write_csv, tmp_path):
    with pytest.raises(TraceError, match=r"header: expected a column TIMESTAMP \(Azure\), Times"):
        read_arrivals(write_csv("a,b", "1,2"))
    text = write_lines(tmp_path / "trace.txt", "no trace")
    with pytest.raises(TraceError, match=r"got \['no trace'\]: name the columns \(.*--columns"):
        read_arrivals(text)
    with pytest.raises(FileNotFoundError):
        read_arrivals(tmp_path / "none.csv")
    for prompts in ('[{"conversations": []}]', '{"messages": []}'):
        with pytest.raises(TraceError, match=r"expected arrivals \(.*, got the members \['[cm]"):
            read_arrivals(write_lines(tmp_path / "prompts.json", prompts))


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
    for change, message in (
        ({"timestamp": 3}, "line 2, timestamp: expected a time not before"),
        *(
            ({"timestamp": time}, f"line 2, timestamp: expected .*, got {shown}")
            for time, shown in (
                *(("3", "'3'"), (-1, "-1"), (float("nan"), "nan"), (float("inf"), "inf")),
                *((1e13, "10000000000000.0"), (1e300, r"1e\+300"), (10**400, "1000")),
            )
        ),
        ({"input_length": 0}, "line 2, input_length: expected an integer >= 1"),
        ({"output_length": None}, "line 2, output_length: expected an integer >= 1, got None"),
        ({"output_length": -1}, "line 2, output_length: expected an integer >= 1, got -1"),
        ({"output_length": 0}, "line 2, output_length: expected an integer >= 1"),
    ):
        with pytest.raises(TraceError, match=message):
            read_arrivals(write(row, row | change))


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
