"""Draw docs/laps_sd.png: what LAPS-SD knows of some requests, and when it serves them.

An episode of `chat-serial-8b` is played; nothing in the picture is made up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import laps_env
from laps_env import policies
from laps_env.report.timeline import TimelineRecorder
from laps_env.sim.observation import ACCEPTED, ARRIVAL_NUMBER, DRAFTED, OCCUPIED, RAN, ROUNDS

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "laps_sd.png"
SCENARIO, SEED, REQUESTS = "chat-serial-8b", 5, 9
UNCERTAIN, STABLE, WAITING = "#d98a3d", "#4278be", "#e3e6ea"


def play() -> tuple[Any, list[tuple[int, float, float, bool]], list[list[tuple[int, float, bool]]]]:
    """The requests, the rounds (whose, from, to, stable) and the rates (rounds, A, stable)."""
    env = TimelineRecorder(
        gym.make(laps_env.REPLAY_IDS[0], scenario=SCENARIO, load=0.95, num_requests=REQUESTS),
        "laps_sd",
    )
    policy = policies.make("laps_sd", SCENARIO)
    observation, _ = env.reset(seed=SEED)
    state, over = None, False
    rounds: list[tuple[int, float, float, bool]] = []
    rates: list[list[tuple[int, float, bool]]] = [[] for _ in range(REQUESTS)]
    while not over:
        action, state = policy.predict(observation, state)
        number = int(observation["queue"][action, ARRIVAL_NUMBER])
        stable = bool(state[0, action, 1])
        observation, _, over, _, _ = env.step(action)
        assert env.timeline is not None  # it was reset
        played = env.timeline.rounds[-1]  # one request at a time: every action is a round
        rounds.append((number, played.start_ns * 1e-9, played.end_ns * 1e-9, stable))
        for row in observation["queue"]:
            if row[OCCUPIED] and row[RAN] and row[DRAFTED]:
                rates[number].append((int(row[ROUNDS]), row[ACCEPTED] / row[DRAFTED], stable))
    assert env.timeline is not None
    return env.timeline.requests, rounds, rates


def draw() -> Figure:
    """The figure."""
    requests, rounds, rates = play()
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 2))
    for number, request in enumerate(requests):
        begin, end = request["arrival_ns"] * 1e-9, request["completion_ns"] * 1e-9
        upper.barh(number, end - begin, left=begin, height=0.7, color=WAITING)
    for number, begin, end, stable in rounds:
        color = STABLE if stable else UNCERTAIN
        upper.barh(number, end - begin, left=begin, height=0.7, color=color)
    upper.invert_yaxis()
    upper.set_yticks(range(REQUESTS), [f"request {k}" for k in range(REQUESTS)], fontsize=8)
    upper.set_xlabel("seconds")
    names = {"served, acceptance uncertain": UNCERTAIN, "served, stable": STABLE, "waits": WAITING}
    handles = [Line2D([], [], color=color, linewidth=7) for color in names.values()]
    figure.legend(handles, list(names), loc="outside upper center", ncols=3, frameon=False)
    for seen in rates:
        count, rate, is_stable = (np.array(part) for part in zip(*seen, strict=True))
        lower.plot(count, rate, color=WAITING, linewidth=1, zorder=1)
        for known, color in ((False, UNCERTAIN), (True, STABLE)):
            chosen = is_stable == known
            lower.scatter(count[chosen], rate[chosen], s=5, color=color, zorder=2)
    lower.set_xscale("log")
    lower.set_xlabel("rounds that a request has had")
    lower.set_ylabel("accepted / drafted")
    return figure


if __name__ == "__main__":
    draw().savefig(OUTPUT, dpi=110)
    print(OUTPUT)
