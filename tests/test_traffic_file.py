"""Traffic of a server's own: fitted on its recordings, kept in a file, used in place of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from import_files import STEPS_HEADER, left, step, write_lines

from laps_env import policies
from laps_env.cli import main
from laps_env.policies.base.traffic_file import draft_share, fit_traffic, write_traffic
from laps_env.sim.calibration_file import read_calibration, write_calibration
from laps_env.sim.costs import CostModel
from laps_env.sim.server_model import ServerModel
from laps_env.traces import AcceptanceTrace
from laps_env.traces.importers import import_steps
from laps_env.workloads.recorded import recorded_scenario
from laps_env.workloads.scenarios import get_scenario

COST = CostModel(0.0, 40e6, 1e6, 1e4, 2e6, 5e4, 9e6, 0.0, source="by hand")


def log_of(path: Path, *, predicted: float | None = None) -> Path:
    """30 requests named chat of 9 tokens in rounds of 1, 4 and 4, and 3 named code of 3 tokens."""
    lines: list[dict[str, Any]] = [STEPS_HEADER]
    for k in range(33):
        name, chat = f"r{k}", k < 30
        lines.append(step(k, 0.05, (name, 0, 8, 0, 1)))
        for _ in range(2):
            lines.append(step(k, 0.07, (name, 8, 4, 3, 4) if chat else (name, 8, 1, 0, 1)))
        category, tokens = ("chat", 9) if chat else ("code", 3)
        about = {"prompt_tokens": 8, "output_tokens": tokens, "predicted_tokens": predicted}
        lines.append(left(name, k, category=category, **about))
    return write_lines(path, *lines)


@pytest.fixture
def trace(tmp_path: Path) -> AcceptanceTrace:
    return import_steps(log_of(tmp_path / "steps.jsonl", predicted=5.0))


def test_traffic_by_hand(trace: AcceptanceTrace) -> None:
    traffic = fit_traffic(recorded_scenario(trace, COST))
    assert traffic.categories == ("chat", "code", "other")
    # Predictions say nothing: log L is around its mean, that of code around that of all.
    assert traffic.laws.weight.tolist() == [0, 0, 0]
    assert traffic.laws.offset[0] == pytest.approx(np.log(9))
    mean = (30 * np.log(9) + 3 * np.log(3)) / 33
    assert traffic.laws.offset[1] == pytest.approx(mean, abs=0.02)
    assert traffic.laws.offset[2] == traffic.laws.offset[1]  # "other" has the law of all, too
    assert traffic.laws.tokens_per_round[0] == pytest.approx(3)
    assert traffic.laws.tokens_per_round[1] == pytest.approx((30 * 9 + 3 * 3) / 99, abs=0.05)
    assert "predictions recorded; batch size 4, draft length 3; costs by hand" in traffic.source
    assumed = fit_traffic(recorded_scenario(trace, COST, batch_size=2), 0.3)
    assert "predictions assumed, error 0.3; batch size 2" in assumed.source


def test_the_draft_share_by_hand() -> None:
    """Of 4 requests at 100 tokens of context: 40 + 16 + 4 ms without the drafts, these 6.6 ms."""
    server = ServerModel(COST, batch_size=4, draft_length=3)
    assert draft_share(server, 100.0) == pytest.approx(6.6 / 66.6)
    assert draft_share(server.with_changes(draft_length=0), 100.0) == 0


def test_a_trace_that_does_not_say_its_server_has_to_be_told(trace: AcceptanceTrace) -> None:
    requests: Any = get_scenario("chat-batch8-135m").requests
    with pytest.raises(ValueError, match=r"batch_size: expected a number, which .* does not"):
        recorded_scenario(requests.train, COST, draft_length=4)


def test_a_policy_knows_the_traffic_of_a_file(trace: AcceptanceTrace, tmp_path: Path) -> None:
    traffic = fit_traffic(recorded_scenario(trace, COST))
    path = tmp_path / "traffic.json"
    write_traffic(path, traffic)
    read = policies.read_traffic(path)
    for name in ("gittins_tuned", "learned_index"):
        made = policies.make(name, "mixed-batch8-135m", traffic=read)
        assert made.categories == ("chat", "code", "other")
        params = policies.make(name, "mixed-batch8-135m", traffic=traffic).params
        assert made.params.tolist() == params.tolist()
    tuned = policies.make("gittins_tuned", "mixed-batch8-135m")
    assert policies.make("gittins_tuned", "mixed-batch8-135m", traffic=read).settings == (
        tuned.settings
    )
    with pytest.raises(ValueError, match=r"traffic: expected a Traffic, got 3\.0"):
        policies.make("fcfs", traffic=3.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "version: expected 3, got 1: made by another version, make it again"),
        ({"categories": ["a", "a"]}, r"categories: expected different names, got \['a', 'a'\]"),
        ({"categories": ["a"]}, "laws.weight: expected 1 numbers, one a category, got 3"),
        ({"draft_share": 1.5}, "draft_share: expected a number <= 1.0, got 1.5"),
        ({"saturation_rps": 0}, "saturation_rps: expected a number > 0.0, got 0"),
        ({"more": 1}, "more: expected no such member"),
    ],
)
def test_a_bad_traffic_file_is_refused(
    trace: AcceptanceTrace, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "traffic.json"
    write_traffic(path, fit_traffic(recorded_scenario(trace, COST)))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"traffic.json: {message}"):
        policies.read_traffic(path)


def test_a_law_that_nobody_fits_is_refused(trace: AcceptanceTrace, tmp_path: Path) -> None:
    path = tmp_path / "traffic.json"
    write_traffic(path, fit_traffic(recorded_scenario(trace, COST)))
    document = json.loads(path.read_text())
    document["laws"]["heaviness"][0] = 1e-6
    path.write_text(json.dumps(document))
    with pytest.raises(
        ValueError, match=r"laws.heaviness: expected numbers of \(0\.0, .* got \[1e-06"
    ):
        policies.read_traffic(path)


def test_the_command_writes_what_the_functions_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_calibration import document

    log, costs = log_of(tmp_path / "steps.jsonl"), tmp_path / "calibration.json"
    runs, out = tmp_path / "runs.safetensors", tmp_path / "traffic.json"
    write_calibration(costs, document())
    main(["import", "steps", str(log), str(runs)])
    main(["fit-traffic", str(runs), str(out), "--calibration", str(costs)])
    printed = capsys.readouterr().out
    assert "tokens per round: chat 3.00, code 2." in printed
    assert "predictions assumed, error 0.5; batch size 4, draft length 3" in printed
    fitted = fit_traffic(recorded_scenario(AcceptanceTrace.load(runs), read_calibration(costs)))
    assert policies.read_traffic(out).saturation_rps == fitted.saturation_rps
