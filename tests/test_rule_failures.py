"""A rule of your own that fails: an error that names it, in the kernel and in `predict` alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numba
import pytest

import laps_env
from laps_env import policies
from laps_env.catalog import list_learned, list_rules
from laps_env.cli import main
from laps_env.evaluation.episodes import serve
from laps_env.sim.loops import run_rule
from laps_env.sim.simulation import UNLIMITED, Simulation
from laps_env.sim.state import FREE
from laps_env.utils.jit import Compiled
from laps_env.utils.rule_errors import caught
from laps_env.workloads.scenarios import get_scenario

SCENARIO = "mixed-batch8-135m"

HEAD = """
from laps_env.policies import ACCEPTED, DRAFTED, GENERATED_TOKENS, RuleSpec, prepare, rule

@prepare
def look(queue, server, params):
    {look}

@rule
def mine(row, server, params, memory):
    {rule}

spec = RuleSpec("mine", "a rule that fails", mine, prepare=look, shared=1)
"""

FAILURES = {
    "nan": ("pass", "return -row[ACCEPTED] / row[DRAFTED]", "got NaN or infinity"),
    "infinity": ("pass", "return 1.0 / row[DRAFTED]", "got NaN or infinity"),
    "late nan": (
        "pass",
        "return (row[GENERATED_TOKENS] - 40.0) ** 0.5 if row[GENERATED_TOKENS] > 0 else 0.0",
        "got NaN or infinity",
    ),
    "exception": (
        "pass",
        'if row[GENERATED_TOKENS] > 5:\n        raise RuntimeError("my bug")\n    return 1.0',
        "raised RuntimeError: my bug",
    ),
    "assert": (
        "pass",
        "assert row[GENERATED_TOKENS] <= 5\n    return 1.0",
        "raised AssertionError",
    ),
    "memory": ("pass", "return memory[3]", "1 cells of memory"),
    "parameters": ("pass", "return params[len(params)]", "0 parameters"),
    "row": ("pass", "return row[len(row)]", "24 columns of a row"),
    "preparation": ("server[len(server)] = 1.0", "return 1.0", "out of bounds"),
}


def rule_that(folder: Path, kind: str) -> str:
    look, body, _ = FAILURES[kind]
    path = folder / "mine.py"
    path.write_text(HEAD.format(look=look, rule=body))
    return f"{path}:spec"


def step_by_step(policy: policies.Policy) -> None:
    env = gym.make(laps_env.ENV_IDS[0], scenario=SCENARIO, num_requests=20, load=2.0)
    observation, _ = env.reset(seed=0)
    state, over = None, False
    while not over:
        action, state = policy.predict(observation, state)
        observation, _, over, _, _ = env.step(action)


def whole_rounds(policy: policies.Policy) -> None:
    scenario = get_scenario(SCENARIO)
    serve(policy, scenario.workload(load=2.0, num_requests=20), scenario)


@pytest.mark.parametrize("play", [whole_rounds, step_by_step])
@pytest.mark.parametrize("kind", FAILURES)
def test_a_rule_that_fails_ends_the_run(
    kind: str, play: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    policy = policies.make(rule_that(tmp_path, kind), SCENARIO)
    with pytest.raises(ValueError, match=r"mine\.py:spec \(mine\.py, line \d+\): ") as failure:
        play(policy)
    message = str(failure.value)
    assert FAILURES[kind][2] in message
    assert "at request " in message
    assert "generated_tokens " in message  # the columns that it saw
    assert "ignored" not in capfd.readouterr().err  # said once, not for every call


def test_the_exception_is_the_cause(tmp_path: Path) -> None:
    policy = policies.make(rule_that(tmp_path, "exception"), SCENARIO)
    with pytest.raises(ValueError, match="my bug") as failure:
        whole_rounds(policy)
    assert isinstance(failure.value.__cause__, RuntimeError)


def test_evaluate_ends_with_status_2_and_says_nan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = rule_that(tmp_path, "nan")
    asked = ["--scenario", SCENARIO, "--policies", name, "--loads", "0.9", "--episodes", "1"]
    results = tmp_path / "out.json"
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *asked, "--requests", "20", "--json", str(results)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert name in said
    assert "NaN" in said
    assert not results.exists()


def test_a_rule_that_fails_in_one_thread_spares_the_others(tmp_path: Path) -> None:
    """Each thread has its own failures, and what follows a failure starts afresh."""
    bad = policies.make(rule_that(tmp_path, "exception"), SCENARIO)
    with pytest.raises(ValueError, match="my bug"):
        whole_rounds(bad)
    whole_rounds(policies.make("fcfs", SCENARIO))


@pytest.mark.parametrize("name", [*list_rules(), *list_learned()])
def test_a_rule_of_the_package_stays_inside_its_arrays(name: str) -> None:
    """It runs without checks of its indices; here it is compiled with them."""
    scenario = get_scenario(SCENARIO)
    workload = scenario.workload(load=2.0, num_requests=20)
    policy = policies.make(name, scenario)
    if policy.spec.clairvoyant:
        policy = policy.with_oracle(workload, scenario.server)
    simulation = Simulation(scenario.server)
    simulation.start(0, workload)
    scorer = policy.scorer(simulation.slots)
    scorer = scorer._replace(rule=checked(policy.spec.rule), prepare=checked(policy.spec.prepare))
    with caught(scorer.raised) as errors:
        failed = run_rule(simulation.constants, simulation.state, scorer, UNLIMITED)
    assert (failed, errors.first) == (FREE, None)


def checked(compiled: Compiled) -> Any:
    """Compiled with checks of its own indices, as your own rules are."""
    options: Any = {"boundscheck": True, "error_model": "numpy", "_nrt": False}
    return numba.cfunc(compiled._signature, **options)(compiled.function)
