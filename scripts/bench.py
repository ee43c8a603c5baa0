"""Measure speed, beside the peers that can be measured in the same run.

Prints a table and writes bench.json. Peers: Gymnasium's CartPole, native vector and single; what
counts is the time in ``step``. With ``PEERS=python``, an interpreter that has them, also gymnax's
CartPole and jumanji's job shop (scripts/bench_peers.py). A figure that names no threads is of one
core. Nothing here is asserted: machines differ, so read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import laps_env
from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.sim.observation import OCCUPIED
from laps_env.utils.files import check_output, write_beside
from laps_env.utils.jit import jit
from laps_env.workloads.scenarios import get_scenario

REPLAY = laps_env.ENV_IDS[0]
CARTPOLE = "CartPole-v1"

#: Load of the vector loops, at which queues grow; measured while so many slots are occupied.
OVERLOAD, OCCUPIED_SLOTS = 2.5, 28
#: Steps after which that is given up: some servers never get there.
MOST_STEPS = 4000

#: Cores that there are.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

#: How the vector environment is made, by the ending of its figures' names.
VECTOR_OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "_threads2": {"num_threads": 2},
    "_nocopy": {"copy": False},
    "_nocopy_threads2": {"copy": False, "num_threads": 2},
}

FIRST_STEP = f"""
import time
start = time.perf_counter()
import gymnasium, laps_env
env = gymnasium.make("{REPLAY}")
_, info = env.reset(seed=0)
env.step(int(info["action_mask"].argmax()))
print(time.perf_counter() - start)
"""


@jit
def random_valid_actions(mask: Any, uniform: Any, actions: Any) -> None:
    """A uniformly random valid action in each row."""
    for i in range(mask.shape[0]):
        wanted = np.int64(uniform[i] * mask[i].sum())
        for k in range(mask.shape[1]):
            wanted -= mask[i, k]
            if wanted < 0:
                actions[i] = k
                break


def median_rate(measure: Callable[[], tuple[float, float]], repeats: int) -> float:
    """Median of count / seconds over some repeats, after one that warms up."""
    measure()
    return statistics.median(
        count / seconds for count, seconds in (measure() for _ in range(repeats))
    )


def kernel_rounds(batch_size: int) -> tuple[float, float]:
    """Rounds and seconds of LAPS-SD on the chat scenario at load 0.9, 64 slots."""
    scenario = get_scenario("chat-serial-8b")
    scenario = replace(scenario, server=scenario.server.with_changes(batch_size=batch_size))
    scenario = scenario.with_saturation()
    workload = scenario.workload(load=0.9, num_requests=4000, seed=0)
    policy = policies.make("laps_sd", scenario)
    start = time.perf_counter()
    simulation = serve(policy, workload, scenario)
    seconds = time.perf_counter() - start
    return float(simulation.state.servers[0]["rounds"]), seconds


class VectorLoop:
    """A vector environment under random valid actions, with so many slots occupied on average."""

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        self.env = gym.make_vec(REPLAY, num_envs=num_envs, load=OVERLOAD, **kwargs)
        self.rng = np.random.default_rng(0)
        self.actions = np.zeros(num_envs, np.int64)
        self.measured: list[float] = []

    def run(self, steps: int) -> tuple[float, float, float]:
        """Environment steps, rounds and seconds, from where the queues have grown."""
        observation, info = self.env.reset(seed=0)
        for _ in range(MOST_STEPS):
            if mean_occupied(observation) >= OCCUPIED_SLOTS:
                break
            observation, info, _ = self._step(info)
        rounds, seconds = 0, 0.0
        self.measured = [mean_occupied(observation)]
        for _ in range(steps):
            observation, info, took = self._step(info)
            rounds += int(np.count_nonzero(info["round"]))
            seconds += took
        self.measured.append(mean_occupied(observation))
        return float(steps * self.actions.size), float(rounds), seconds

    def _step(self, info: dict[str, Any]) -> tuple[Any, dict[str, Any], float]:
        random_valid_actions(info["action_mask"], self.rng.random(self.actions.size), self.actions)
        began = time.perf_counter()
        observation, _, _, _, info = self.env.step(self.actions)
        return observation, info, time.perf_counter() - began


def mean_occupied(observation: dict[str, Any]) -> float:
    """Occupied slots of a server, on average."""
    return float(observation["queue"][:, :, OCCUPIED].sum(axis=1).mean())


def cartpole_vector(num_envs: int, steps: int) -> tuple[float, float]:
    """Environment steps and seconds of Gymnasium's native vector CartPole, random actions."""
    env = gym.make_vec(CARTPOLE, num_envs=num_envs, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(2, size=(steps, num_envs))
    start = time.perf_counter()
    for given in actions:
        env.step(given)
    return float(steps * num_envs), time.perf_counter() - start


def single_steps(steps: int) -> tuple[float, float]:
    """Steps and seconds of ``gym.make``, random valid actions, with the resets."""
    env = gym.make(REPLAY)
    _, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    action, row, seconds = np.zeros(1, np.int64), rng.random((steps, 1)), 0.0
    for i in range(steps):
        random_valid_actions(info["action_mask"][None], row[i], action)
        start = time.perf_counter()
        _, _, terminated, truncated, info = env.step(action[0])
        if terminated or truncated:
            _, info = env.reset()
        seconds += time.perf_counter() - start
    return float(steps), seconds


def cartpole_single(steps: int) -> tuple[float, float]:
    """Steps and seconds of ``gym.make`` on CartPole, random actions."""
    env = gym.make(CARTPOLE)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(2, size=steps)
    start = time.perf_counter()
    for i in range(steps):
        _, _, terminated, truncated, _ = env.step(actions[i])
        if terminated or truncated:
            env.reset()
    return float(steps), time.perf_counter() - start


def first_step_seconds(repeats: int) -> float:
    """From ``import`` to the first step in a new process, warm cache, median."""
    command = [sys.executable, "-c", FIRST_STEP]
    runs = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(repeats + 1)
    ]
    return statistics.median(runs[1:])


def steps_and_seconds(loop: VectorLoop, steps: int) -> tuple[float, float]:
    """Environment steps of a loop, and how long they took."""
    taken, _, seconds = loop.run(steps)
    return taken, seconds


def vector_figures(repeats: int) -> dict[str, Any]:
    """Steps per second of the vector environment: sizes, threads, with and without copies."""
    figures: dict[str, Any] = {}
    for count in (64, 256, 1024, 4096):
        for name, given in VECTOR_OPTIONS.items():
            use_cores(given.get("num_threads", 1))
            loop = VectorLoop(count, **given)
            steps = max(200 * 256 // count, 20)
            few = repeats if count <= 256 else max(repeats // 2, 1)  # their queues grow for long
            rate = median_rate(partial(steps_and_seconds, loop, steps), few)
            figures[f"vector_steps_per_s_{count}{name}"] = rate
            figures[f"vector_occupied_slots_{count}{name}"] = float(np.mean(loop.measured))
    return figures


def profile(repeats: int) -> dict[str, Any]:
    """Where the microseconds of a step of 256 servers go: the kernel, the copy, Python."""
    use_cores(1)
    whole, moving = step_and_move_us({}, repeats)
    whole_alone, moving_alone = step_and_move_us({"copy": False}, repeats)
    return {
        "profile_kernel_us_256": moving_alone,
        "profile_python_us_256": whole_alone - moving_alone,
        "profile_copy_us_256": moving - moving_alone,
        "profile_python_behind_copy_us_256": whole - moving,
    }


def step_and_move_us(given: dict[str, Any], repeats: int) -> tuple[float, float]:
    """Microseconds of a step of 256 servers, and of the compiled part of it."""
    loop = VectorLoop(256, **given)
    envs: Any = loop.env.unwrapped
    move, inside = envs._move, [0.0]

    def timed(*arguments: Any) -> None:
        began = time.perf_counter()
        move(*arguments)
        inside.append(time.perf_counter() - began)

    envs._move = timed
    steps, taken = 100, []
    for _ in range(repeats):
        _, _, seconds = loop.run(steps)
        taken.append((seconds / steps * 1e6, sum(inside[-steps:]) / steps * 1e6))
    return min(taken)


#: What the cost of a step depends on: 256 servers that differ from the default in one number.
VARIED: dict[str, dict[str, Any]] = {
    "slots_32": {"slots": 32},
    "slots_256": {"slots": 256},
    "batch_8": {"batch_size": 8},
    "batch_64": {"batch_size": 64},
    "requests_100": {"num_requests": 100},
    "requests_1000": {"num_requests": 1000},
}


def varied_figures(repeats: int) -> dict[str, Any]:
    """Nanoseconds of a step of one of 256 servers, by slots, batch size and requests."""
    use_cores(1)
    figures: dict[str, Any] = {}
    for name, given in VARIED.items():
        loop = VectorLoop(256, **given)
        figures[f"step_ns_{name}"] = 1e9 / median_rate(
            partial(steps_and_seconds, loop, 100), repeats
        )
    return figures


def measure(repeats: int) -> dict[str, Any]:
    """All figures."""
    figures: dict[str, Any] = {}
    use_cores(1)
    for batch_size in (1, 8, 16, 64):
        figures[f"kernel_rounds_per_s_b{batch_size}"] = median_rate(
            partial(kernel_rounds, batch_size), repeats
        )
    figures["cartpole_vector_steps_per_s_256"] = median_rate(
        lambda: cartpole_vector(256, 1000), repeats
    )
    figures |= vector_figures(repeats)
    figures |= profile(repeats) | varied_figures(repeats)
    use_cores(1)
    batched = VectorLoop(256, scenario="chat-batch8-8b")
    figures["vector_rounds_per_s_batch8"] = median_rate(lambda: batched.run(200)[1:], repeats)
    figures["vector_occupied_slots_batch8"] = float(np.mean(batched.measured))
    figures["vector_over_cartpole"] = (
        figures["vector_steps_per_s_256"] / figures["cartpole_vector_steps_per_s_256"]
    )
    figures["single_steps_per_s"] = median_rate(lambda: single_steps(20_000), repeats)
    figures["cartpole_single_steps_per_s"] = median_rate(lambda: cartpole_single(20_000), repeats)
    figures["single_over_cartpole"] = (
        figures["single_steps_per_s"] / figures["cartpole_single_steps_per_s"]
    )
    figures["first_step_s"] = first_step_seconds(repeats)
    if peers := os.environ.get("PEERS"):
        figures |= peer_figures(peers)
    return figures


def peer_figures(python: str) -> dict[str, Any]:
    """Figures of peers that another interpreter has."""
    script = Path(__file__).with_name("bench_peers.py")
    done = subprocess.run([python, str(script)], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def use_cores(count: int) -> None:
    """Let this process use so many cores from now on, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, CORES[:count])


def run_command(
    description: str, output: str, measure_all: Callable[[int], dict[str, Any]]
) -> None:
    """The command line of a benchmark: measure, print a table, write a JSON file.

    Args:
        description: of the help.
        output: the file's name by default.
        measure_all: figures by name, from the number of repeats of each.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, default=Path(output))
    parser.add_argument("--repeats", type=int, default=5, help="of each figure; the median counts")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats: expected at least 1, got {arguments.repeats}")
    try:
        check_output(arguments.json)
    except ValueError as reason:
        parser.error(f"--json: {reason}")
    figures = measure_all(arguments.repeats)
    for name, value in figures.items():
        print(f"{name:34} {value:>14,.2f}")
    figures["machine"] = (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )
    figures["date"] = datetime.now(UTC).date().isoformat()
    write_beside(arguments.json, [(json.dumps(figures, indent=1) + "\n").encode()])


if __name__ == "__main__":
    run_command(__doc__.splitlines()[0], "bench.json", measure)
