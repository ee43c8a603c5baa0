"""Learned rules: what is deployed is what was trained, files are checked, runs are repeatable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import policies
from laps_env.evaluation.episodes import evaluate_episode
from laps_env.scenarios import get_scenario
from policies.features import REQUEST_FEATURES, SERVER_FEATURES
from policies.learned import SHAPES, pointer_spec
from policies.learned_index import index_spec
from policies.model_file import CARD, WEIGHTS, save_model

SCENARIO = "mixed-batch8"


def random_arrays(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.5, shape) for name, shape in SHAPES.items()}


def workload(**changes: Any) -> Any:
    options = {"load": 1.2, "num_requests": 60, "set_tag": "tune", "seed": 1}
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
    rules = [index_spec("i", {"weights": w}) for w in (weights, [both, 0 * both, 0 * both])]
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


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", "pointer", random_arrays(), {"note": "by hand"})
    return tmp_path / "model"


def test_a_saved_model_is_a_policy(folder: Path) -> None:
    scenario = get_scenario(SCENARIO)
    arrays = {name: np.float32(array) for name, array in random_arrays().items()}
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
        ("version", 2, "version: expected 1, got 2"),
        ("request_features", ["a"], "request_features: expected"),
        ("server_features", None, "server_features: expected"),
        ("kind", None, "kind: expected a text, got None"),
        ("kind", "tree", "kind: expected 'pointer' or 'index', got 'tree'"),
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
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError):
        policies.make(str(folder), SCENARIO)
    (folder / CARD).write_text("{")
    with pytest.raises(ValueError, match=r"card\.json: expected JSON"):
        policies.make(str(folder), SCENARIO)


def test_a_folder_without_a_card_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="policy: expected one of"):
        policies.make(str(tmp_path), SCENARIO)


# -- training -------------------------------------------------------------------------------------


def test_the_deployed_network_chooses_as_the_trained_one() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sb3_contrib")
    from agents.networks import PointerNetwork
    from agents.ppo import PPOOptions, law_table
    from agents.queue_policy import QueuePolicy
    from laps_env.vector_env import SpecDecodeReplayVectorEnv

    torch.manual_seed(3)
    envs = SpecDecodeReplayVectorEnv(1, scenario=SCENARIO, num_requests=1, slots=16)
    laws, _ = law_table(PPOOptions(scenario=(SCENARIO,)))
    spaces = (envs.single_observation_space, envs.single_action_space)
    trained = QueuePolicy(*spaces, lambda _: 1e-3, laws=laws)
    assert isinstance(trained.scorer, PointerNetwork)
    rule = policies.make(pointer_spec("p", trained.numpy_arrays()), SCENARIO)
    observation, info = envs.reset(seed=0, options={"workload": workload()})
    over, state, choices = False, None, 0
    while not over:
        action, state = rule.predict(observation, state)
        again, _ = trained.predict(
            observation, deterministic=True, action_masks=info["action_mask"].astype(bool)
        )
        np.testing.assert_array_equal(action, again)
        choices += info["action_mask"].sum() > 2
        observation, _, terminated, _, info = envs.step(action)
        over = bool(terminated[0])
    assert choices > 100


TINY = {
    "scenario": (SCENARIO,),
    "loads": (0.9,),
    "num_requests": 10,
    "slots": 16,
    "envs": 4,
    "rollout": 16,
    "rollouts": 2,
    "value_blocks": 1,
    "imitation_steps": 20,
    "minibatch": 32,
}


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (CARD, WEIGHTS)}


def blocks_of(folder: Path) -> list[dict[str, Any]]:
    """The journal without its times."""
    lines = (folder / "journal").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.fixture
def small_tune_set(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = pytest.importorskip("agents.runs")
    monkeypatch.setattr(runs, "TUNE_REQUESTS", 40)
    monkeypatch.setattr(runs, "TUNE_REPEATS", 1)


@pytest.mark.usefixtures("one_thread", "small_tune_set")
@pytest.mark.parametrize("algorithm", ["ppo", "index"])
def test_a_killed_run_ends_where_the_unbroken_one_does(tmp_path: Path, algorithm: str) -> None:
    """And two runs of one seed are the same, bit for bit."""
    pytest.importorskip("sb3_contrib")
    from agents.ppo import PPOOptions
    from agents.runs import Budget, IndexOptions, train

    options: Any = PPOOptions(**TINY)
    if algorithm == "index":
        options = IndexOptions(scenario=(SCENARIO,), loads=(0.9,), num_requests=20, repeats=1)
    quiet = {"at": lambda share, text: None}
    train(options, tmp_path / "unbroken", Budget(blocks=4), **quiet)
    for blocks in (1, 3, 4):
        train(options, tmp_path / "broken", Budget(blocks=blocks), **quiet)
    assert blocks_of(tmp_path / "broken") == blocks_of(tmp_path / "unbroken")
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "unbroken")
    policies.make(str(tmp_path / "broken"), SCENARIO)


@pytest.mark.usefixtures("one_thread", "small_tune_set")
def test_a_run_killed_between_checkpoint_and_journal_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    from agents.ppo import PPOOptions
    from agents.runs import Budget, train

    options, quiet = PPOOptions(**TINY), {"at": lambda share, text: None}
    train(options, tmp_path / "unbroken", Budget(blocks=3), **quiet)
    train(options, tmp_path / "broken", Budget(blocks=2), **quiet)
    journal = tmp_path / "broken" / "journal"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))
    train(options, tmp_path / "broken", Budget(blocks=3), **quiet)
    assert blocks_of(tmp_path / "broken") == blocks_of(tmp_path / "unbroken")


@pytest.mark.usefixtures("one_thread", "small_tune_set")
def test_a_run_without_its_checkpoint_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    from agents.checkpoint import NAME
    from agents.ppo import PPOOptions
    from agents.runs import Budget, train

    options, quiet = PPOOptions(**TINY), {"at": lambda share, text: None}
    train(options, tmp_path, Budget(blocks=1), **quiet)
    before = files_of(tmp_path)
    (tensors,) = tmp_path.glob("checkpoint-*.safetensors")
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"safetensors: expected safetensors, got"):
        train(options, tmp_path, Budget(blocks=2), **quiet)
    (tmp_path / NAME).unlink()
    with pytest.raises(ValueError, match="expected the checkpoint of block 1, got that of none"):
        train(options, tmp_path, Budget(blocks=2), **quiet)
    assert files_of(tmp_path) == before


@pytest.mark.usefixtures("small_tune_set")
def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    from agents.runs import Budget, IndexOptions, train

    options = {"scenario": (SCENARIO,), "loads": (0.9,), "num_requests": 20, "repeats": 1}
    train(IndexOptions(**options), tmp_path, Budget(blocks=1), lambda share, text: None)
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match="journal: expected a journal of"):
        train(IndexOptions(**options, seed=1), tmp_path, Budget(blocks=1), lambda share, text: None)
    assert files_of(tmp_path) == before


def test_budgets() -> None:
    runs = pytest.importorskip("agents.runs")
    for given in ({}, {"minutes": 1.0, "blocks": 1}, {"minutes": 0.0}, {"blocks": 0}):
        with pytest.raises(ValueError, match=r"budget|minutes|blocks"):
            runs.Budget(**given)
    assert runs.Budget(minutes=2).spent([{"seconds": 60.0}]) == 0.5
    assert runs.Budget(blocks=2).spent([{"seconds": 61.0}]) == 0.5


def test_features_have_distinct_names() -> None:
    names = [feature.name for feature in (*REQUEST_FEATURES, *SERVER_FEATURES)]
    assert len(set(names)) == len(names)


# -- laws, choices, options -----------------------------------------------------------------------


def test_misfit_is_kolmogorovs_distance() -> None:
    from statistics import NormalDist

    from policies.laws import _distance_to_normal

    normal = np.array([NormalDist().inv_cdf((k + 0.5) / 1000) for k in range(1000)])
    assert _distance_to_normal(3 + 2 * normal) < 0.002
    # two values: at either one half of the law is short of, or beyond, NormalDist().cdf(1)
    assert _distance_to_normal(np.array([0.0, 1.0])) == pytest.approx(NormalDist().cdf(1) - 0.5)
    assert _distance_to_normal(np.zeros(5)) == 0.0


def test_softened_choices_have_the_entropy_and_keep_their_order() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sb3_contrib")
    from agents.ppo import PPOOptions, law_table
    from agents.queue_policy import QueuePolicy
    from laps_env.vector_env import SpecDecodeReplayVectorEnv

    torch.manual_seed(0)
    envs = SpecDecodeReplayVectorEnv(8, scenario=SCENARIO, num_requests=12, load=1000.0, slots=16)
    laws, _ = law_table(PPOOptions(scenario=(SCENARIO,)))
    spaces = (envs.single_observation_space, envs.single_action_space)
    policy = QueuePolicy(*spaces, lambda _: 1e-3, laws=laws)
    observation, info = envs.reset(seed=0)
    for _ in range(10):
        observation, *_, info = envs.step(info["action_mask"].argmax(axis=1))
    seen = {name: torch.from_numpy(part) for name, part in observation.items()}
    before = policy.get_distribution(seen, info["action_mask"]).mode()
    policy.soften(seen, info["action_mask"], 0.3)
    after = policy.get_distribution(seen, info["action_mask"])
    assert after.entropy().mean().item() == pytest.approx(0.3, abs=1e-3)
    assert after.mode().equal(before)


def test_what_a_block_draws_depends_on_the_runs_seed(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sb3_contrib")
    from agents.ppo import PPOOptions, PPOTrainer

    drawn = []
    for seed in (0, 1, 1):
        trainer = PPOTrainer(PPOOptions(**{**TINY, "seed": seed}), tmp_path / str(len(drawn)))
        trainer._begin()
        first = trainer.venv.reset()["queue"]
        drawn.append((torch.rand(1).item(), first.tobytes()))
        trainer.close()
    assert drawn[1] == drawn[2]
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def test_loads_rise_with_the_curriculum() -> None:
    pytest.importorskip("sb3_contrib")
    from agents.ppo import PPOOptions

    options = PPOOptions(loads=(0.5, 0.9), curriculum=4)
    assert [options.load_in(block, 0.9) for block in (0, 2, 4, 9)] == pytest.approx(
        [0.5, 0.7, 0.9, 0.9]
    )
    assert options.load_in(0, 0.5) == 0.5
    assert PPOOptions().load_in(0, 0.9) == 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenario": ()}, "scenario: expected at least one"),
        ({"scenario": ("none",)}, "scenario: expected one of"),
        ({"loads": (0.0,)}, "loads: expected a finite number > 0"),
        ({"predictor_errors": (-1.0,)}, "predictor error: expected"),
        ({"envs": 1}, "envs: expected at least one for each of 2"),
        ({"network": "tree"}, "network: expected one of"),
        ({"without": ("luck",)}, "without: expected some of"),
        ({"learning_rate": 0.0}, "learning_rate: expected a finite number > 0"),
        ({"rollout": 0}, "rollout: expected an integer >= 1"),
        ({"envs": 8.5}, "envs: expected an integer >= 1"),
        ({"trace": 1.1}, "trace: expected a number from 0 to 1"),
        ({"teacher": "me"}, "teacher: expected a policy or 'none'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("sb3_contrib")
    from agents.ppo import PPOOptions

    with pytest.raises(ValueError, match=message):
        PPOOptions(**options)


def test_hyperparameters_are_options() -> None:
    pytest.importorskip("sb3_contrib")
    from agents.hyperparameters import hyperparameters
    from agents.ppo import PPOOptions

    assert PPOOptions(**hyperparameters("ppo", ("mixed-serial",))) == PPOOptions()
    assert PPOOptions(**hyperparameters("ppo", ("mixed-batch8", "chat-batch8-8b"))).slots == 64
    mixed = hyperparameters("ppo", ("mixed-batch8", "mixed-serial"))
    assert "slots" not in mixed  # an entry counts where its pattern matches all


def test_an_attention_network_is_judged_by_stepping(tmp_path: Path, small_tune_set: None) -> None:
    pytest.importorskip("sb3_contrib")
    from agents.ppo import PPOOptions
    from agents.runs import Budget, train

    told: list[str] = []
    options = PPOOptions(**{**TINY, "teacher": "fcfs", "network": "attention"})
    train(options, tmp_path, Budget(blocks=1), lambda share, text: told.append(text))
    assert "mean latency x" in told[-1]
    card = json.loads((tmp_path / CARD).read_text())
    assert card["kind"] == "attention"
    with pytest.raises(ValueError, match="kind: expected 'pointer' or 'index', got 'attention'"):
        policies.make(str(tmp_path), SCENARIO)
