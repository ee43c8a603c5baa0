"""Learned rules: what is deployed is what was trained, files are checked, runs are repeatable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import laps_env.policies.networks.flat as flat
from laps_env import policies
from laps_env.evaluation.episodes import evaluate_episode
from laps_env.policies._registry import network_rule
from laps_env.policies.networks.features import REQUEST_FEATURES, SERVER_FEATURES
from laps_env.policies.networks.index import make_spec as index_spec
from laps_env.policies.networks.model_file import CARD, WEIGHTS, save_model
from laps_env.policies.networks.pointer import SHAPES
from laps_env.policies.networks.pointer import make_spec as pointer_spec
from laps_env.workloads.scenarios import get_scenario

SCENARIO = "mixed-batch8-135m"


def random_arrays(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.5, shape) for name, shape in SHAPES.items()}


def workload(**changes: Any) -> Any:
    options: dict[str, Any] = {"load": 1.2, "num_requests": 60, "split": "validation", "seed": 1}
    return get_scenario(SCENARIO).workload(**(options | changes))


# -- the rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("feature", "name"), [("bayes", "bayes_srpt"), ("gittins", "gittins")])
def test_an_index_of_one_feature_is_that_rule(feature: str, name: str) -> None:
    weights = np.zeros((3, len(REQUEST_FEATURES)))
    weights[0, [f.name for f in REQUEST_FEATURES].index(feature)] = 1
    index = policies.make(index_spec("again", {"weights": weights}), SCENARIO)
    known = policies.make(name, SCENARIO)
    scenario = get_scenario(SCENARIO)
    one, other = (evaluate_episode(p, workload(), scenario) for p in (index, known))
    assert one == other


def test_an_index_weighs_by_the_batch() -> None:
    """At batch 8, a weight per log(batch) / 4 is that times the plain weight."""
    weights = np.random.default_rng(0).normal(size=(3, len(REQUEST_FEATURES)))
    weights[2] = 0
    both = weights[0] + weights[1] * np.log(8) / 4
    scenario = get_scenario(SCENARIO)
    rules = [
        index_spec("i", {"weights": w}) for w in (weights, np.array([both, 0 * both, 0 * both]))
    ]
    one, other = (
        evaluate_episode(policies.make(rule, scenario), workload(), scenario) for rule in rules
    )
    assert one == other


def test_a_pointer_network_looks_at_all_requests() -> None:
    """With the pooled context at work the order depends on who else is there."""
    arrays = random_arrays()
    alone = arrays | {"C": np.zeros(SHAPES["C"])}
    scenario = get_scenario(SCENARIO)
    one, other = (
        evaluate_episode(policies.make(pointer_spec("p", a), scenario), workload(), scenario)
        for a in (arrays, alone)
    )
    assert one["mean_latency_s"] != other["mean_latency_s"]


def test_arrays_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="network: expected arrays"):
        pointer_spec("p", random_arrays() | {"w": np.zeros(3)})
    with pytest.raises(ValueError, match=r"index: expected weights of shape \(3, 18\)"):
        index_spec("i", {"weights": np.zeros(3)})


@pytest.mark.parametrize("network", ["pointer", "attention", "flat"])
def test_the_deployed_network_chooses_as_the_trained_one(network: str) -> None:
    """Also where it was trained without some of the features."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("sb3_contrib")
    from laps_env.agents.options import PPOOptions
    from laps_env.agents.ppo import law_table
    from laps_env.agents.queue_policy import QueuePolicy
    from laps_env.envs.vector import SpecDecodeReplayVectorEnv

    torch.manual_seed(3)
    envs = SpecDecodeReplayVectorEnv(1, scenario=SCENARIO, num_requests=1, slots=16)
    laws, _ = law_table(PPOOptions(scenario=(SCENARIO,)))
    spaces = (envs.single_observation_space, envs.single_action_space)
    trained = QueuePolicy(
        *spaces, lambda _: 1e-3, laws=laws, network=network, without=frozenset({"acceptance"})
    )
    rule = policies.make(network_rule(network, "p", trained.numpy_arrays()), SCENARIO)
    observation, info = envs.reset(seed=0, options={"workload": workload()})
    over, state, choices = False, None, 0
    while not over and choices < 300:
        action, state = rule.predict(observation, state)
        again, _ = trained.predict(
            observation, deterministic=True, action_masks=info["action_mask"].astype(bool)
        )
        np.testing.assert_array_equal(action, again)
        choices += info["action_mask"].sum() > 2
        observation, _, terminated, _, info = envs.step(action)
        over = bool(terminated[0])
    assert choices > 100


def test_a_flat_network_serves_the_slots_it_was_made_for() -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape) for name, shape in flat.shapes(16).items()}
    rule, scenario = policies.make(flat.make_spec("f", arrays), SCENARIO), get_scenario(SCENARIO)
    evaluate_episode(rule, workload(), scenario, slots=16)
    with pytest.raises(ValueError, match="f: expected 16 slots, as it was made for, got 64"):
        evaluate_episode(rule, workload(), scenario)


def test_misfit_is_kolmogorovs_distance() -> None:
    from statistics import NormalDist

    from laps_env.policies.base.traffic_model import _distance_to_normal

    normal = np.array([NormalDist().inv_cdf((k + 0.5) / 1000) for k in range(1000)])
    assert _distance_to_normal(3 + 2 * normal) < 0.002
    # two values: at either one half of the law is short of, or beyond, NormalDist().cdf(1)
    assert _distance_to_normal(np.array([0.0, 1.0])) == pytest.approx(NormalDist().cdf(1) - 0.5)
    assert _distance_to_normal(np.zeros(5)) == 0.0


def test_features_have_distinct_names() -> None:
    names = [feature.name for feature in (*REQUEST_FEATURES, *SERVER_FEATURES)]
    assert len(set(names)) == len(names)


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", "pointer", random_arrays(), {"note": "by hand"})
    return tmp_path / "model"


def test_a_saved_model_is_a_policy(folder: Path) -> None:
    scenario = get_scenario(SCENARIO)
    arrays = {name: array.astype(np.float32) for name, array in random_arrays().items()}
    made = policies.make(pointer_spec("p", arrays), scenario)
    loaded = policies.make(str(folder), scenario)
    np.testing.assert_array_equal(loaded.params, made.params)
    assert loaded.name == str(folder)
    assert evaluate_episode(loaded, workload(), scenario) == evaluate_episode(
        made, workload(), scenario
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", "other", "format: expected 'laps-env learned policy', got 'other'"),
        ("version", 1, "version: expected 2, got 1.*make it again"),
        ("request_features", ["a"], "request_features: expected"),
        ("server_features", None, "server_features: expected"),
        ("kind", None, "kind: expected a text, got None"),
        ("kind", "tree", r"kind: expected one of \['index', .*\], got 'tree'"),
        ("kind", "flat", "network: expected arrays"),
        ("kind", "index", "index: expected weights of shape"),
    ],
)
def test_cards_of_other_models_are_refused(
    folder: Path, field: str, value: Any, message: str
) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | {field: value}))
    with pytest.raises(ValueError, match=message):
        policies.make(str(folder), SCENARIO)


def test_damaged_files_are_refused(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors: expected safetensors"):
        policies.make(str(folder), SCENARIO)
    save_model(folder, "pointer", random_arrays() | {"w": np.full(SHAPES["w"], np.nan)}, {})
    with pytest.raises(ValueError, match="w: expected finite weights"):
        policies.make(str(folder), SCENARIO)
    header = b'{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    with pytest.raises(ValueError, match=r"model\.safetensors: w: expected .* NumPy's, got BF16"):
        policies.make(str(folder), SCENARIO)
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError):
        policies.make(str(folder), SCENARIO)
    (folder / CARD).write_text("{")
    with pytest.raises(ValueError, match=r"card\.json: expected JSON"):
        policies.make(str(folder), SCENARIO)


def test_a_model_may_have_arrays_for_a_scenario_alone(tmp_path: Path) -> None:
    sets = {".chat-serial-135m": random_arrays(1), "": random_arrays(2)}
    arrays = {name + owner: array for owner, own in sets.items() for name, array in own.items()}
    save_model(tmp_path, "pointer", arrays, {})
    for scenario, seed in (("chat-serial-135m", 1), ("chat-batch8-135m", 2)):
        made = policies.make(str(tmp_path), scenario)
        alone = {name: array.astype(np.float32) for name, array in random_arrays(seed).items()}
        np.testing.assert_array_equal(
            made.params, policies.make(pointer_spec("p", alone), scenario).params
        )


def test_a_folder_without_a_card_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="policy: expected one of"):
        policies.make(str(tmp_path), SCENARIO)
