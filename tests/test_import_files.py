"""What all importers share: lines, gzip, damage, several files, and costs in proportion."""

import gzip
import json
import tracemalloc

import pytest
from import_files import INFO, TURN, answer, response, write_lines

from laps_env.traces import TraceError
from laps_env.traces.importers import import_spec_bench, import_vllm
from laps_env.traces.importers.unpacked import MAX_LINE_BYTES, read_array


def test_empty_and_damaged_files(tmp_path):
    path = tmp_path / "in.jsonl.gz"
    for content, message in (
        (b"", "expected at least one request, got none"),
        (b"\n\n", "expected at least one request, got none"),
        (gzip.compress(json.dumps(TURN).encode() * 50)[:-20], "line 1: expected gzip, got"),
        (b"\x1f\x8bnothing", "line 1: expected gzip, got"),
        (b"\xff\xfe", "line 1: expected a JSON object"),
        (b"[" * 100_000, "entry 0: expected JSON, got maximum recursion"),
        (b"[1]", r"entry 0: expected a JSON object, got 1"),
        (b" [\n] ", "expected at least one request, got none"),
        (b"[" + json.dumps(TURN).encode() + b"; 3]", "entry 1: expected JSON, got neither a comma"),
        (b"[" + json.dumps(TURN).encode() + b', "', "entry 1: expected JSON, got Unterminated"),
        (b'[{"q": "\xff"}]', "entry 0: expected text, got 'utf-8' codec"),
        (json.dumps(TURN).encode() + b"\n" + bytes(512), "line 2: expected a JSON object, got"),
        (bytes(4096), "line 1: expected a JSON object, got"),
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


def test_an_array_is_read_entry_by_entry(tmp_path):
    """Entries longer than what is read at a time, in bounded memory, and their numbers from 0."""
    turns = [TURN | {"q": k, "text": "x" * (k % 7) * 40_000} for k in range(200)]  # 24 MB
    path = tmp_path / "in.json.gz"
    path.write_bytes(gzip.compress(json.dumps(turns, indent=1).encode(), 1))
    tracemalloc.start()
    assert all(number == turn["q"] for number, turn in read_array(path))
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()
    trace = import_spec_bench(path, INFO, plain_draft=True)
    assert trace.group.tolist() == list(range(200))
    path.write_text(json.dumps([TURN, TURN | {"n": "x"}]))
    with pytest.raises(TraceError, match="entry 1, n: expected an integer, got 'x'"):
        import_spec_bench(path, INFO, plain_draft=True)


@pytest.fixture
def two_files(tmp_path):
    """Of each a request of 4 and one of 7 tokens, their own question numbers the same."""
    lines = (response(4, [2]) | {"category": "chat"}, response(7, [1, 3]))
    return [write_lines(tmp_path / name, *lines) for name in ("math.jsonl", "qa.jsonl")]


def test_files_of_one_run_make_one_trace(two_files):
    trace = import_vllm(two_files, INFO, plain_draft=True)
    assert trace.output_tokens.tolist() == [4, 7, 4, 7]
    assert trace.categories == ("chat", "math", "qa")
    assert [trace.categories[i] for i in trace.category] == ["chat", "math", "chat", "qa"]
    assert trace.group.tolist() == [0, 1, 2, 3]
    assert trace.committed.tolist() == [1, 3, 1, 2, 4] * 2
    assert trace.info.provenance["file"] == "math.jsonl, qa.jsonl"
    assert trace.info.provenance["num_spec_tokens"] == 3


def test_files_of_two_runs_are_refused_and_the_message_says_what_differs(tmp_path, two_files):
    other = write_lines(tmp_path / "other.jsonl", response(4, [2], num_spec_tokens=5))
    message = r"other\.jsonl: num_spec_tokens: expected one run, of 3 as .*math\.jsonl says, got 5"
    with pytest.raises(TraceError, match=message):
        import_vllm([*two_files, other], INFO, plain_draft=True)
    one = write_lines(tmp_path / "one.jsonl", answer(draft_lengths=[5] * 4) | {"model_id": "sps"})
    two = write_lines(tmp_path / "two.jsonl", answer(draft_lengths=[5] * 4) | {"model_id": "eagle"})
    with pytest.raises(TraceError, match=r"two\.jsonl: model_id: expected one run, of 'sps' as"):
        import_spec_bench([one, two], INFO, plain_draft=True)


def test_questions_of_two_files_stay_apart_though_their_numbers_are_the_same(tmp_path):
    """Turns of a question stay together in a split, and prompts grow by their own answers alone."""
    paths = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    for path in paths:
        write_lines(path, answer(draft_lengths=[5] * 4))
    questions = write_lines(tmp_path / "q.jsonl", {"question_id": 81, "turns": ["a" * 9, "b" * 4]})
    trace = import_spec_bench(paths, INFO, plain_draft=True, questions=questions)
    assert trace.group.tolist() == [81, 81, 82, 82]
    assert trace.prompt_tokens.tolist() == [3, 4 + 5] * 2


@pytest.mark.parametrize("given", [[], ["math.jsonl", "./math.jsonl"]])
def test_a_file_given_twice_does_not_count_twice(tmp_path, two_files, given):
    with pytest.raises(TraceError, match="files: expected one or more, each once, got"):
        import_vllm([tmp_path / name for name in given], INFO, plain_draft=True)
