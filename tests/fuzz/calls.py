"""Doors of calls: arguments that a program or a command line gives.

What takes long because it was asked for (a million requests) is not asked for.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzz.damage import EXTREMES, damaged_value
from fuzz.files import Attack


def costs(folder: Path) -> Attack:
    """Constants of a cost model, which then serves a workload."""
    from test_calibration import COST

    from laps_env import policies
    from laps_env.evaluation.episodes import evaluate_episode
    from laps_env.sim.costs import CostModel
    from laps_env.workloads.scenarios import get_scenario

    scenario, valid = get_scenario("mixed-batch8-135m"), asdict(COST)
    workload = scenario.workload(load=0.9, num_requests=4, split="train", seed=0)
    fcfs = policies.make("fcfs", scenario)
    evaluate_episode(fcfs, workload, scenario)  # compiled

    def attack(rng: Random) -> None:
        server = replace(scenario.server, cost=CostModel(**_damaged_members(valid, rng)))
        _check_numbers(evaluate_episode(fcfs, workload, replace(scenario, server=server)))

    return attack


def rule_spec(folder: Path) -> Attack:
    """The fields of an own rule."""
    from laps_env import policies
    from laps_env.policies import Parameter, RuleSpec
    from laps_env.policies._registry import get_rule

    spec = get_rule("laps_sd")
    valid = {
        "name": "mine",
        "title": "My rule.",
        "parameters": [list(parameter) for parameter in spec.parameters],
        "cells": spec.cells,
        "shared": 1,
        "shared_per_slot": 1,
        "slots": 64,
        "by_category": False,
        "clairvoyant": False,
    }

    def attack(rng: Random) -> None:
        fields = _damaged_members(valid, rng)
        if isinstance(fields.get("parameters"), list):
            parameters = fields["parameters"]
            fields["parameters"] = tuple(
                Parameter(*p) if isinstance(p, list) and 5 <= len(p) <= 8 else p for p in parameters
            )
        policies.make(RuleSpec(rule=spec.rule, **fields), "mixed-batch8-135m")

    return attack


def command_line(folder: Path) -> Attack:
    """The options of every command, as far as they are checked before the work."""
    from laps_env.cli import COMMANDS
    from laps_env.cli.command import parse

    words = {
        "evaluate": "--policies fcfs,las --loads 0.7,recorded --episodes 3 --predictor-error 0.5",
        "train": "--out run --blocks 3 --seed 1 --entropy 0.01 --loads 0.9 --without mask",
        "tune": "--trials 8 --scenarios mixed-batch8-135m --out tuned.json",
        "check": "results.json --sample 3",
        "import": "vllm a.jsonl b.safetensors --drafter eagle",
        "record": "--prompts a.jsonl --out . --name pair --limit 5 --batch 2",
        "timeline": "results.json --scenario chat-serial-8b --load 0.9",
        "sweep": "a.toml --out runs --attempts 3",
    }

    def attack(rng: Random) -> None:
        name = rng.choice(sorted(words))
        changed = damaged_value(words[name].split(), rng)
        given = [str(word) for word in changed] if isinstance(changed, list) else [str(changed)]
        try:
            parse(COMMANDS[name], given, f"laps-env {name}")
        except ValueError as error:  # the words of the library that reads options
            raise ValueError(f"expected other options, got {error}") from None

    return attack


def grid(folder: Path) -> Attack:
    """What an evaluation is asked for."""
    from laps_env.evaluation.grid import Grid
    from laps_env.evaluation.recordings import Recordings

    valid = {
        "policies": ["fcfs"],
        "scenarios": ["mixed-batch8-135m"],
        "loads": [0.7, 0.9],
        "episodes": 2,
        "num_requests": 4,
        "first_seed": 0,
        "split": "test",
        "slots": 64,
        "predictor_error": 0.5,
        "reference": "laps_sd_tuned",
    }

    def attack(rng: Random) -> None:
        Grid(**_damaged_members(valid, rng), recordings=Recordings())

    return attack


def environment(folder: Path) -> Attack:
    """Arguments, reset options and actions of an environment."""
    import gymnasium as gym

    from laps_env.envs.replay import SpecDecodeReplay

    valid: dict[str, Any] = {
        "scenario": "mixed-batch8-135m",
        "load": 0.9,
        "num_requests": 4,
        "slots": 8,
        "batch_size": 2,
        "draft_length": 3,
        "pool_tokens": 100_000,
        "predictor_error": 0.5,
        "time_limit_s": 60.0,
        "queue_limit": 100,
        "reward_scale": 10.0,
        "split": "train",
        "interface": "sequential",
    }
    reset = {"seed": 3, "options": {"workload_seed": 5}}
    action: Any = {"sequential": 0, "scores": [0.5] * 8}

    def attack(rng: Random) -> None:
        broken = rng.choice(("arguments", "reset", "action"))
        env = SpecDecodeReplay(**_damaged_members(valid, rng, broken == "arguments"))
        try:
            env.reset(**_damaged_members(reset, rng, broken == "reset"))
        except gym.error.Error as error:  # Gymnasium's own words
            raise ValueError(f"expected another seed, got {error}") from None
        interface = env.options.interface
        for _ in range(5):
            given = damaged_value(action[interface], rng) if broken == "action" else None
            try:
                env.step(env.action_space.sample() if given is None else given)
            except gym.error.ResetNeeded:
                break

    return attack


def workload(folder: Path) -> Attack:
    """Arrays of a workload, which is then served."""
    from laps_env import policies
    from laps_env.evaluation.episodes import evaluate_episode
    from laps_env.sim.workload import Workload
    from laps_env.workloads.scenarios import get_scenario

    scenario = get_scenario("mixed-batch8-135m")
    fcfs = policies.make("fcfs", scenario)
    made = scenario.workload(load=0.9, num_requests=3, split="train", seed=0)
    evaluate_episode(fcfs, made, scenario)  # compiled
    names = "arrival_ns prompt_tokens output_tokens predicted_tokens category accepted_length"
    valid = {name: getattr(made, name) for name in names.split()}

    def attack(rng: Random) -> None:
        name = rng.choice(sorted(valid))
        array = valid[name].copy()
        kind = rng.choice(("type", "size", "value", "value", "value", "other"))
        if kind == "type":
            array = array.astype(rng.choice((np.int32, np.float32, bool, object)))
        elif kind == "size":
            array = rng.choice((array[1:], array[None], array[:0], np.append(array, array)))
        elif kind == "value":
            extremes = (-1, 0, 1, 2**24, 2**24 + 1, 2**62, np.nan, np.inf)
            with np.errstate(invalid="ignore"):
                extreme = np.array(rng.choice(extremes)).astype(array.dtype)
            array[rng.randrange(array.size)] = extreme
        else:
            array = rng.choice(EXTREMES)
        given = Workload(**valid | {name: array}, categories=made.categories)
        _check_numbers(evaluate_episode(fcfs, given, scenario))

    return attack


def _damaged_members(valid: dict[str, Any], rng: Random, really: bool = True) -> dict[str, Any]:
    """Keyword arguments with some values changed; names that are nobody's are left out."""
    changed = damaged_value(valid, rng) if really else valid
    given = changed if isinstance(changed, dict) else {}
    return {name: given.get(name, value) for name, value in valid.items()}


def _check_numbers(metrics: dict[str, float]) -> None:
    wrong = {name: value for name, value in metrics.items() if not 0 <= value < np.inf}
    assert not wrong, wrong
