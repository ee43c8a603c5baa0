"""laps-env import: what it writes is played, what it leaves out is said."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from laps_env.cli import main
from laps_env.traces import AcceptanceTrace
from laps_env.traces.importers import read_arrivals

BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
RESPONSE = {
    "usage": {"prompt_tokens": 9, "completion_tokens": 4},
    "metrics": {"speculative_decoding": {"num_spec_tokens": 3, "per_step_accepted": [2]}},
}


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_arrivals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "5,a,472,18,490,x\n5.5,a,9,0,9,x\nsoon,a,1,1,2,x\n45.123456789,a,1087,230,1317,x\n"
    source, out = write(tmp_path / "burst.csv", BURST + rows), tmp_path / "out.jsonl"
    with pytest.raises(SystemExit) as stopped:
        main(["import", "arrivals", source, str(out)])
    assert stopped.value.code == 2
    assert "line 4, Timestamp: expected a number in s, got 'soon'" in capsys.readouterr().err
    assert not out.exists()
    main(["import", "arrivals", source, str(out), "--skip-bad"])
    told = capsys.readouterr().out
    assert "left out: 1 without output, the first: " in told
    assert "left out: 1 malformed, the first: " in told
    assert "assumed: Timestamp: times are in s (--unit)" in told
    assert "2 requests in 40 s, from BurstGPT's CSV" in told
    assert read_arrivals(out).arrival_ns.tolist() == [0, 40_123_456_789]


def test_columns_can_be_named_and_requests_sorted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "user,in,sent at,out\na,3,9000,4\nb,0,4000,4\nc,5,4500,6\n"
    source, out = write(tmp_path / "log.txt", rows), tmp_path / "out.jsonl"
    named = ["--columns", "arrival=sent at,prompt=in,output=out,id=user", "--unit", "ms"]
    for given, message in (
        ([], "line 1, header: expected a column TIMESTAMP (Azure)"),
        (named, "line 4, sent at: expected a time not before the line above"),
        (["--columns", "arrival"], "columns: expected arrival=NAME,..., each once, got 'arrival'"),
        (["--columns", "arrival=in,arrival=in"], "columns: expected arrival=NAME,..., each once"),
    ):
        with pytest.raises(SystemExit):
            main(["import", "arrivals", source, str(out), *given])
        assert message in capsys.readouterr().err
    main(["import", "arrivals", source, str(out), *named, "--sort"])
    told = capsys.readouterr().out
    assert "left out: 1 without prompt, the first: " in told
    assert "2 requests in 4 s, from CSV" in told
    assert "assumed" not in told
    trace = read_arrivals(out)
    assert (trace.arrival_ns.tolist(), trace.prompt_tokens.tolist()) == ([0, 4_500_000_000], [5, 3])


def test_a_long_log_is_converted_in_little_memory(tmp_path: Path) -> None:
    """32 bytes a line while it is read, 24 while it is written."""
    count = 50_000
    lines = "\n".join(f"{k},x,{k % 90 + 1},{k % 9 + 1},1,x" for k in range(count))
    source, out = write(tmp_path / "burst.csv", BURST + lines), tmp_path / "out.jsonl"
    main(["import", "arrivals", source, str(out), "--overwrite"])
    tracemalloc.start()
    main(["import", "arrivals", source, str(out), "--overwrite"])
    assert tracemalloc.get_traced_memory()[1] < 80 * count + 4 * 2**20
    tracemalloc.stop()
    assert read_arrivals(out).arrival_ns.tolist() == [k * 10**9 for k in range(count)]


def test_a_bad_line_takes_no_good_ones_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{k},a,{k + 1},9,1,x".encode() for k in range(2000)]
    lines[700] = b'700,"a,1,9,1,x'  # a quote that nothing closes
    lines[900] = b"900,\xff\xfe,1,9,1,x"
    source, out = tmp_path / "burst.csv", tmp_path / "out.jsonl"
    source.write_bytes(BURST.encode() + b"\n".join(lines))
    main(["import", "arrivals", str(source), str(out), "--skip-bad"])
    told = capsys.readouterr().out
    assert "left out: 2 malformed, the first: " in told
    assert "burst.csv: line 702, row: expected comma-separated text" in told
    expected = [k + 1 for k in range(2000) if k not in (700, 900)]
    assert read_arrivals(out).prompt_tokens.tolist() == expected


def test_a_source_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"timestamp": 1, "input_length": 2, "output_length": 3}\n')
    before = source.read_bytes()
    for out, message in (
        (source, "expected an output that is none of the inputs"),
        (tmp_path / "sub" / ".." / "in.jsonl", "expected an output that is none of the inputs"),
        (tmp_path / "out.safetensors", "output: expected a file ending in .jsonl"),
    ):
        with pytest.raises(SystemExit):
            main(["import", "arrivals", str(source), str(out)])
        assert message in capsys.readouterr().err
    assert source.read_bytes() == before
    assert list(tmp_path.iterdir()) == [source]


def test_acceptance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "responses.jsonl", tmp_path / "runs.safetensors"
    broken = json.dumps({**RESPONSE, "usage": {"prompt_tokens": 9}})
    write(source, f"{json.dumps(RESPONSE)}\n{broken}\n")
    with pytest.raises(SystemExit):
        main(["import", "vllm", str(source), str(out)])
    assert "line 2, usage.completion_tokens: expected a value" in capsys.readouterr().err
    assert not out.exists()
    main(
        [
            "import",
            "vllm",
            str(source),
            str(out),
            "--skip-bad",
            "--target",
            "big",
            "--draft",
            "small",
        ]
    )
    assert "left out: 1 malformed" in capsys.readouterr().out
    trace = AcceptanceTrace.load(out)
    assert trace.output_tokens.tolist() == [4]
    assert (trace.info.target_model, trace.info.draft_model) == ("big", "small")
    write(source, broken)
    before = out.read_bytes()
    for overwrite, message in (
        ([], "runs.safetensors: expected a name that is free"),
        (["--overwrite"], "expected at least one request, got none"),
    ):
        with pytest.raises(SystemExit):
            main(["import", "vllm", str(source), str(out), "--skip-bad", *overwrite])
        assert message in capsys.readouterr().err
        assert out.read_bytes() == before


@pytest.mark.filterwarnings("default")
def test_the_unit_of_times_can_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GuideLLM's columns are Mooncake's, and its times are seconds."""
    row = {"input_length": 521, "output_length": 132}
    lines = [json.dumps({"timestamp": 9 * k, **row}) for k in range(400)]
    source, out = tmp_path / "replay.jsonl", tmp_path / "out.jsonl"
    write(source, "\n".join(lines))
    main(["import", "arrivals", str(source), str(out), "--unit", "s"])
    assert "400 requests in 3591 s" in capsys.readouterr().out
    assert read_arrivals(out).arrival_ns[-1] == 399 * 9_000_000_000
    main(["import", "arrivals", str(source), str(out), "--overwrite"])
    said = capsys.readouterr().err
    assert "laps-env: warning: " in said
    assert "replay.jsonl: expected 0.01..50 requests a second" in said


def test_files_of_one_run_become_one_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record: dict[str, Any] = {"prompt_token_ids": [5, 6], "generated_token_ids": [7]}
    record |= {"acc_eagle": {"acc_len": [1, 3]}, "acc_ngram": {"acc_len": [1, 1, 1]}}
    for name in ("combined_gsm8k.jsonl", "combined_a,b.jsonl"):
        write(Path(name), json.dumps(record))
    files = ["combined_gsm8k.jsonl", "combined_a,b.jsonl"]
    main(["import", "specdecode-bench", *files, "runs.safetensors", "--target", "llama"])
    assert "2 requests of 2 categories, 100% of" in capsys.readouterr().out
    trace = AcceptanceTrace.load("runs.safetensors")
    assert (trace.categories, trace.info.drafter) == (("a,b", "gsm8k"), "eagle")
    assert trace.output_tokens.tolist() == [2, 2]
    main(["import", "specdecode-bench", *files, "ngram.safetensors", "--drafter", "ngram"])
    assert AcceptanceTrace.load("ngram.safetensors").output_tokens.tolist() == [3, 3]
    for given, message in (
        (["runs.safetensors"], "files: expected some to read and one to write, got runs"),
        ([*files, files[0]], "output: expected a file ending in .safetensors"),
        ([*files, files[0], "x.safetensors"], "files: expected one or more, each once, got"),
    ):
        with pytest.raises(SystemExit):
            main(["import", "specdecode-bench", *given])
        assert message in capsys.readouterr().err
    assert not Path("x.safetensors").exists()


def test_eagles_answers_are_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choice = {"turns": ["x"], "idxs": [9], "new_tokens": [30], "wall_time": [1.0]}
    source = write(tmp_path / "in.jsonl", json.dumps({"question_id": 81, "choices": [choice]}))
    question = {"question_id": 81, "category": "chat", "turns": ["a" * 40]}
    questions = write(tmp_path / "question.jsonl", json.dumps(question))
    out = tmp_path / "runs.safetensors"
    convert = ["import", "eagle", source, str(out), "--questions", questions]
    with pytest.raises(SystemExit):
        main(convert)
    assert "--draft-length" in capsys.readouterr().err
    main([*convert, "--draft-length", "5"])
    told = capsys.readouterr().out
    assert "assumed: prompt lengths: estimated: characters / 4 plus the earlier answers" in told
    assert "1 requests of 1 categories, 0% of their positions observed" in told
    trace = AcceptanceTrace.load(out)
    assert (trace.categories, trace.info.drafter) == (("chat",), "eagle")
    assert (trace.output_tokens.tolist(), trace.prompt_tokens.tolist()) == ([30], [10])


COUNTED = [
    ("sglang", {"prompt_tokens": 11, "completion_tokens": 30, "spec_verify_ct": 9}),
    ("aiperf", {"num_spec_steps": 9, "num_accepted_draft_tokens": 20}),
]


@pytest.mark.parametrize(("name", "members"), COUNTED)
def test_responses_that_count_their_rounds_are_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, members: dict[str, int]
) -> None:
    lengths = {"input_sequence_length": 11, "output_sequence_length": 30}
    profiled = {"metadata": {}, "metrics": lengths, "spec_decode_acceptance": members}
    record = {"meta_info": members} if name == "sglang" else profiled
    source, out = write(tmp_path / "in.jsonl", json.dumps(record)), tmp_path / "runs.safetensors"
    main(["import", name, source, str(out), "--draft-length", "5", "--category", "chat"])
    assert "1 requests of 1 categories, 0% of their positions observed" in capsys.readouterr().out
    trace = AcceptanceTrace.load(out)
    assert (trace.output_tokens.tolist(), trace.prompt_tokens.tolist()) == ([30], [11])
    assert (trace.categories, trace.info.drafter) == (("chat",), "eagle")


@pytest.mark.parametrize(("name", "count"), [("conv", 19_366), ("code", 8_819)])
def test_azure(shared_data: Path, tmp_path: Path, name: str, count: int) -> None:
    source = shared_data / f"arrivals/AzureLLMInferenceTrace_{name}.csv"
    out = tmp_path / "out.jsonl"
    main(["import", "arrivals", str(source), str(out)])
    one, other = read_arrivals(source), read_arrivals(out)
    assert one.arrival_ns.size == count
    for field in ("arrival_ns", "prompt_tokens", "output_tokens"):
        assert (getattr(one, field) == getattr(other, field)).all()
