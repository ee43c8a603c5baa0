"""Costs from the times of requests: two constants, of one batch size, with wide intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from import_files import write_lines

pytest.importorskip("scipy")

from laps_env.cli import main
from laps_env.live.measure.request_costs import fit_requests
from laps_env.live.measure.request_times import RequestTimes, read_request_times
from laps_env.sim.calibration_file import read_calibration
from laps_env.traces import TraceError

PASS_S, TOKEN_S = 0.04, 0.001


def requests(count: int, noise: float = 0.0, ttft: bool = True, prompts: int = 400):
    """Requests that are served one at a time."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        prompt, rounds = int(rng.integers(10, 11 + prompts)), int(rng.integers(1, 90))
        first, rest = rng.uniform(1 - noise, 1 + noise, 2)
        ttft_s = first * (PASS_S + TOKEN_S * prompt)
        seconds = ttft_s + rest * (rounds - 1) * (PASS_S + TOKEN_S)
        made.append(RequestTimes(prompt, rounds, seconds, ttft_s if ttft else None, 1))
    return made


@pytest.mark.parametrize("ttft", [True, False])
def test_two_constants_are_found_and_are_in_their_intervals(ttft):
    fit = fit_requests(requests(60, ttft=ttft))
    assert fit.cost.target_pass_ns == pytest.approx(PASS_S * 1e9)
    assert fit.cost.target_token_ns == pytest.approx(TOKEN_S * 1e9)
    assert max(error["p90"] for error in fit.errors.values()) < 1e-6
    noisy = fit_requests(requests(60, noise=0.3, ttft=ttft))
    for name, value in (("target_pass_ns", PASS_S), ("target_token_ns", TOKEN_S)):
        low, high = noisy.intervals[name]
        assert low < value * 1e9 < high
        assert high - low > 0.03 * value * 1e9
    assert 0.05 < noisy.errors["request"]["mean"] < 0.3
    assert noisy.notes[0] == (
        "these are costs at a concurrency of 1; they say nothing about other batch sizes"
    )


def test_others_that_are_served_at_once_count_in_a_round():
    """Four at once: of each other one a token in a round, and a prompt of 100 in 50 rounds."""
    others = 3 * (1 + 100 / 50)
    prefill, decode = (
        rounds * PASS_S + (tokens + rounds * others) * TOKEN_S
        for rounds, tokens in ((1, 100), (49, 49))
    )
    fit = fit_requests([RequestTimes(100, 50, prefill + decode, prefill, 4)] * 20)
    assert fit.cost.target_pass_ns == pytest.approx(PASS_S * 1e9)
    assert fit.cost.target_token_ns == pytest.approx(TOKEN_S * 1e9)


def test_prompts_of_one_length_without_a_first_token_tell_one_constant():
    same = [RequestTimes(1, k, k * 0.05, None, None) for k in range(1, 31)]
    fit = fit_requests(same)
    assert fit.cost.target_token_ns == 0
    assert fit.cost.target_pass_ns == pytest.approx(0.05e9)
    assert "assumed" in fit.notes[0]
    assert fit.notes[-1].startswith("target_token_ns is 0: every pass has the same number of")


def test_few_requests_are_refused():
    with pytest.raises(ValueError, match="expected at least 20 requests, got 19"):
        fit_requests(requests(19))


def test_times_that_no_pass_explains_are_refused():
    waited = [RequestTimes(p, 1, p * p * 1e-4, None, 1) for p in range(100, 140)]
    with pytest.raises(ValueError, match="target_pass_ns: expected some time for a pass"):
        fit_requests(waited)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": 5, "output": 3}, "line 2, seconds: expected a value, got none"),
        ({"prompt": 5, "output": 0, "seconds": 1}, "line 2, output: expected an integer >= 1"),
        ({"prompt": 5, "output": 3, "seconds": 1, "ttft_s": 2}, "line 2, seconds: expected more"),
        ({"prompt": 5, "output": 3, "seconds": 1, "rounds": 4}, "line 2, rounds: expected at most"),
        ("[1]", "line 2: expected a JSON object, got [1]"),
    ],
)
def test_a_bad_request_is_named_with_its_line(tmp_path, line, message):
    good = {"prompt": 5, "output": 3, "seconds": 1.5}
    path = write_lines(tmp_path / "requests.jsonl", good, line)
    with pytest.raises(TraceError) as error:
        read_request_times(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_a_result_of_vllm_s_benchmark_is_read_without_those_that_failed(tmp_path):
    result = {
        "max_concurrency": 4,
        "input_lens": [10, 20, 30],
        "output_lens": [5, 0, 1],
        "ttfts": [0.5, 0.0, 0.25],
        "itls": [[0.125, 0.25], [], []],
    }
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    assert read_request_times(path) == [
        RequestTimes(10, 3, 0.875, 0.5, 4),
        RequestTimes(30, 1, 0.25, 0.25, 4),
    ]
    path.write_text(json.dumps(result | {"ttfts": [0.5]}))
    with pytest.raises(TraceError, match="ttfts: expected 3 values as of input_lens, got 1"):
        read_request_times(path)


def test_the_command_writes_a_calibration(tmp_path, capsys):
    lines = [f"{r.prompt},{r.rounds},{r.seconds},{r.ttft_s},1" for r in requests(40)]
    path = write_lines(tmp_path / "r.csv", "prompt,output,seconds,ttft_s,concurrency", *lines)
    out = tmp_path / "calibration.json"
    main(["calibrate", "--from-requests", str(path), "--out", str(out)])
    cost = read_calibration(out)
    assert cost.target_pass_ns == pytest.approx(PASS_S * 1e9)
    assert cost.source.startswith("measured on the unnamed server of r.csv")
    assert "say nothing about other batch sizes" in capsys.readouterr().out
    assert set(json.loads(out.read_text())["requests"]["intervals"]) == {
        "target_pass_ns",
        "target_token_ns",
    }
