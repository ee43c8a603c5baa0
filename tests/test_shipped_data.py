"""What the package carries of real models: traces, the draft's card, calibrations, predictions."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from laps_env.sim.calibration_file import read_calibration
from laps_env.traces import AcceptanceTrace
from laps_env.workloads.length_model import LengthModel
from laps_env.workloads.requests import RecordedRequests
from laps_env.workloads.scenarios import get_scenario, list_scenarios

DATA = Path(str(files("laps_env") / "data"))
RECORDED = [n for n in list_scenarios() if not n.endswith(("-8b", "-7b", "-h200"))]
NAMES = ("smollm2-135m", "smollm2-135m-lookup")


def traces(name: str) -> tuple[AcceptanceTrace, AcceptanceTrace]:
    train, test = (
        AcceptanceTrace.load(DATA / "traces" / f"{name}-{part}.safetensors")
        for part in ("train", "test")
    )
    return train, test


@pytest.mark.parametrize("name", NAMES)
def test_recorded_traces(name: str) -> None:
    train, test = traces(name)
    assert train.num_requests + test.num_requests >= 600
    assert train.categories == test.categories
    assert len(set(train.category)) >= 5
    for trace, part in ((train, "train"), (test, "test")):
        assert trace.info.provenance["part"] == part
        assert trace.observed_share == 1.0
        assert trace.prompt_tokens.min() > 0
        assert trace.predicted_tokens is not None
        assert trace.group is not None
        assert trace.num_requests > len(np.unique(trace.group))  # second turns are there


def test_a_round_of_the_recording_is_a_round_of_the_replay() -> None:
    """Loading replays all recorded rounds; here they are as many as were served."""
    for trace in traces(NAMES[0]):
        assert trace.committed is not None
        assert trace.round_ns is not None
        assert trace.committed.sum() == trace.output_tokens.sum()
        assert (trace.round_ns > 0).all()
        assert trace.info.provenance["corrected_positions"] < 0.001 * trace.committed.size


def test_confidences_are_calibrated_and_tell_accepted_from_refused() -> None:
    for trace in traces(NAMES[0]):
        assert trace.confidence is not None
        confidence, accepted = trace.confidence / 255, trace.accepted_length > 0
        assert abs(confidence.mean() - accepted.mean()) < 0.05
        order = np.argsort(confidence[accepted], kind="stable")
        below = np.searchsorted(confidence[accepted][order], confidence[~accepted])
        assert 0.75 < (1 - below / len(order)).mean() < 0.95  # the area under the curve


def test_both_drafters_were_recorded_on_the_same_texts() -> None:
    for draft, lookup in zip(*map(traces, NAMES), strict=True):
        np.testing.assert_array_equal(draft.output_tokens, lookup.output_tokens)
        np.testing.assert_array_equal(draft.predicted_tokens, lookup.predicted_tokens)
        assert lookup.max_draft is not None
        assert (lookup.accepted_length <= lookup.max_draft).all()


def test_predictions_are_no_truths() -> None:
    """The length model errs on test about as much as its cross-validation says."""
    card = json.loads((DATA / "length_model.json").read_text(encoding="utf-8"))["card"]
    _, test = traces(NAMES[0])
    assert test.predicted_tokens is not None
    error = np.log(test.predicted_tokens / test.output_tokens).std()
    assert 0.2 < error < 1.5
    assert card
    LengthModel.load()


@pytest.mark.parametrize("name", RECORDED)
def test_default_scenarios_are_recorded(name: str) -> None:
    scenario = get_scenario(name)
    assert isinstance(scenario.requests, RecordedRequests)
    assert scenario.error_in_force(None) == "recorded"
    final, train = (
        scenario.workload(load=0.9, num_requests=400, split=tag) for tag in ("test", "train")
    )
    shares = np.bincount(final.category) / final.num_requests
    assert scenario.requests.weights is not None
    wanted = np.array(scenario.requests.weights) / np.sum(scenario.requests.weights)
    assert np.abs(shares - wanted).max() < 0.1
    predicted = set(final.predicted_tokens.tolist()) & set(train.predicted_tokens.tolist())
    assert not predicted  # other questions
    assert "measured on" in scenario.server.cost.source


@pytest.mark.parametrize(
    "path", sorted((DATA / "calibrations").glob("*.json")), ids=lambda p: p.stem
)
def test_calibrations(path: Path) -> None:
    cost = read_calibration(path)
    assert cost.target_pass_ns > 0


def test_the_draft_s_weights_are_small() -> None:
    total = sum(file.stat().st_size for file in (DATA / "draft").iterdir())
    assert total < 10_000_000
    card = json.loads((DATA / "draft" / "head.json").read_text(encoding="utf-8"))["card"]
    assert card["output_tokens"] > 0
