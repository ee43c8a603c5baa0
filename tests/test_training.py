"""Training runs are repeatable, survive a kill and overwrite nothing; options are checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laps_env import policies
from laps_env.policies.networks.model_file import CARD, WEIGHTS

SCENARIO = "mixed-batch8-135m"

TINY: dict[str, Any] = {
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
def small_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = pytest.importorskip("laps_env.agents.runs")
    monkeypatch.setattr(runs, "VALIDATION_REQUESTS", 40)
    monkeypatch.setattr(runs, "VALIDATION_WORKLOADS", 1)


@pytest.mark.usefixtures("one_thread", "small_validation")
@pytest.mark.parametrize("algorithm", ["ppo", "index"])
def test_a_killed_run_ends_where_the_unbroken_one_does(tmp_path: Path, algorithm: str) -> None:
    """And two runs of one seed are the same, bit for bit."""
    pytest.importorskip("sb3_contrib")
    from laps_env.agents.options import Budget, IndexOptions, PPOOptions
    from laps_env.agents.runs import train

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


@pytest.mark.usefixtures("one_thread", "small_validation")
def test_a_run_killed_between_checkpoint_and_journal_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    from laps_env.agents.options import Budget, PPOOptions
    from laps_env.agents.runs import train

    options, quiet = PPOOptions(**TINY), {"at": lambda share, text: None}
    train(options, tmp_path / "unbroken", Budget(blocks=3), **quiet)
    train(options, tmp_path / "broken", Budget(blocks=2), **quiet)
    journal = tmp_path / "broken" / "journal"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))
    train(options, tmp_path / "broken", Budget(blocks=3), **quiet)
    assert blocks_of(tmp_path / "broken") == blocks_of(tmp_path / "unbroken")


@pytest.mark.usefixtures("one_thread", "small_validation")
def test_a_run_without_its_checkpoint_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    from laps_env.agents.checkpoint import NAME
    from laps_env.agents.options import Budget, PPOOptions
    from laps_env.agents.runs import train

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


@pytest.mark.usefixtures("small_validation")
def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    from laps_env.agents.options import Budget, IndexOptions
    from laps_env.agents.runs import train

    options: dict[str, Any] = {"scenario": (SCENARIO,), "loads": (0.9,), "num_requests": 20}
    options["repeats"] = 1
    train(IndexOptions(**options), tmp_path, Budget(blocks=1), lambda share, text: None)
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match="journal: expected a journal of"):
        train(IndexOptions(**options, seed=1), tmp_path, Budget(blocks=1), lambda share, text: None)
    assert files_of(tmp_path) == before


def test_budgets() -> None:
    from laps_env.agents import options as runs

    for given in ({}, {"minutes": 1.0, "blocks": 1}, {"minutes": 0.0}, {"blocks": 0}):
        with pytest.raises(ValueError, match=r"budget|minutes|blocks"):
            runs.Budget(**given)
    assert runs.Budget(minutes=2).spent([{"seconds": 60.0}]) == 0.5
    assert runs.Budget(blocks=2).spent([{"seconds": 61.0}]) == 0.5


# -- choices, options -----------------------------------------------------------------------------


def test_softened_choices_have_the_entropy_and_keep_their_order() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sb3_contrib")
    from laps_env.agents.options import PPOOptions
    from laps_env.agents.ppo import law_table
    from laps_env.agents.queue_policy import QueuePolicy
    from laps_env.envs.vector import SpecDecodeReplayVectorEnv

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
    after: Any = policy.get_distribution(seen, info["action_mask"])
    assert after.entropy().mean().item() == pytest.approx(0.3, abs=1e-3)
    assert after.mode().equal(before)


def test_what_a_block_draws_depends_on_the_runs_seed(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sb3_contrib")
    from laps_env.agents.options import PPOOptions
    from laps_env.agents.ppo import PPOTrainer

    drawn: list[tuple[float, bytes]] = []
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
    from laps_env.agents.options import PPOOptions

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
        ({"entropy": float("nan")}, "entropy: expected a finite number >= 0"),
        ({"trace": 1.1}, "trace: expected a number from 0 to 1"),
        ({"teacher": "me"}, "teacher: expected a policy or 'none'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("sb3_contrib")
    from laps_env.agents.options import PPOOptions

    with pytest.raises(ValueError, match=message):
        PPOOptions(**options)


def test_hyperparameters_are_options() -> None:
    pytest.importorskip("sb3_contrib")
    from laps_env.agents.options import PPOOptions, hyperparameters

    assert PPOOptions(**hyperparameters("ppo", ("mixed-serial-135m",))) == PPOOptions()
    assert PPOOptions(**hyperparameters("ppo", ("mixed-batch8-135m", "chat-batch8-8b"))).slots == 64
    mixed = hyperparameters("ppo", ("mixed-batch8-135m", "mixed-serial-135m"))
    assert "slots" not in mixed  # an entry counts where its pattern matches all
