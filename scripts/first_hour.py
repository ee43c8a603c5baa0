"""Train schedulers from scratch with stable-baselines3, and draw how they learn.

A run is one algorithm and seed on one core; every half minute its most probable actions play 16
*test* workloads of 300 requests. The journal goes on where it was broken off, run by run.

    python scripts/first_hour.py --out runs/first_hour --minutes 10 --seeds 5
    python scripts/first_hour.py --out runs/first_hour --draw docs/first_hour.png
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from laps_env.utils.files import write_beside

SCENARIO, LOAD = "mixed-serial-8b", 0.9
ENVS, REQUESTS, SLOTS, REWARD_SCALE = 128, 100, 64, 10.0
#: Of all algorithms: steps of each environment in a rollout, rounds that a step stands for in
#: training, and the discount a step.
STEPS, ROUNDS, GAMMA = 128, 24, 0.97
#: Where the length of a round is decided too: seconds that a step stands for, and a discount that
#: looks as far as a queue lasts, which is what a draft length changes.
SECONDS, DRAFTS_GAMMA = 0.8, 0.99
#: Seconds of training between two points of a curve.
EVERY = 30
#: Algorithms, and whether they know the mask. The last also decides how much is drafted at most:
#: the server stops a draft that is unsure.
ALGORITHMS = {"shared": True, "flat": True, "unmasked": False, "recurrent": False, "drafts": True}


def make(name: str, venv: Any, seed: int) -> Any:
    """A model with random weights."""
    from sb3_contrib import MaskablePPO, RecurrentPPO
    from stable_baselines3 import PPO

    from laps_env.agents.queue_policy import SharedScorer

    made: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "shared": (MaskablePPO, SharedScorer, {"learning_rate": 1e-3}),
        "flat": (MaskablePPO, "MultiInputPolicy", {}),
        "unmasked": (PPO, "MultiInputPolicy", {}),
        "recurrent": (RecurrentPPO, "MultiInputLstmPolicy", {}),
        "drafts": (MaskablePPO, SharedScorer, {"learning_rate": 1e-3, "gamma": DRAFTS_GAMMA}),
    }
    algorithm, policy, own = made[name]
    common = {"n_steps": STEPS, "batch_size": 4096, "n_epochs": 4, "gamma": GAMMA, "seed": seed}
    return algorithm(policy, venv, **{**common, **own})


def run(name: str, seed: int, minutes: int, file: Path) -> None:
    """Train one model, and write its curve."""
    import torch

    from laps_env.agents.action_repeat import ActionRepeat
    from laps_env.agents.judge import Judge
    from laps_env.agents.progress import EpisodeProgress
    from laps_env.agents.vec_env import ReplayVecEnv
    from laps_env.envs.normalized import NormalizedVectorObservation

    torch.set_num_threads(1)
    judge = Judge(SCENARIO, load=LOAD)
    deciding: dict[str, Any] = {}
    held: dict[str, Any] = {"rounds": ROUNDS}
    if name == "drafts":
        deciding = {"interface": "drafts", "draft_length": "confidence"}
        held = {"rounds": 1000, "seconds": SECONDS}
    servers = ActionRepeat(
        ENVS,
        **held,
        **deciding,
        scenario=SCENARIO,
        load=LOAD,
        num_requests=REQUESTS,
        slots=SLOTS,
        reward_scale=REWARD_SCALE,
        autoreset_mode="SameStep",
    )
    model = make(name, ReplayVecEnv(NormalizedVectorObservation(servers)), seed)
    rules = {rule: judge.rule(rule).tolist() for rule in ("fcfs", "laps_sd", "laps_sd_tuned")}
    seconds, points, progress = 0.0, [], EpisodeProgress()
    while True:
        latencies = judge.model(model, masked=ALGORITHMS[name], **deciding)
        points.append(
            {
                "seconds": seconds,
                "steps": model.num_timesteps,
                "latency_s": latencies.tolist(),
                "invalid_share": progress.latest.get("episodes/invalid_share"),
            }
        )
        if seconds >= 60 * minutes:
            break
        began = time.perf_counter()
        while time.perf_counter() - began < EVERY:
            model.learn(
                ENVS * STEPS,
                callback=progress,
                reset_num_timesteps=not model.num_timesteps,
            )
        seconds += time.perf_counter() - began
    write_beside(file, [(json.dumps({"rules": rules, "points": points}) + "\n").encode()])


def draw(folder: Path, picture: Path) -> None:
    """Latency over that of FCFS against minutes, every seed a line."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for color, name in zip(plt.cm.tab10.colors, ALGORITHMS, strict=False):  # type: ignore[attr-defined]
        for file in sorted(folder.glob(f"{name}-*.json")):
            found = json.loads(file.read_text())
            fcfs = np.array(found["rules"]["fcfs"])
            minutes = [point["seconds"] / 60 for point in found["points"]]
            ratios = [np.mean(point["latency_s"]) / fcfs.mean() for point in found["points"]]
            label = name if file.stem.endswith("-0") else None
            axes.plot(minutes, ratios, color=color, label=label, linewidth=1.2)
    level = np.mean(found["rules"]["laps_sd"]) / fcfs.mean()
    axes.axhline(level, color="grey", linewidth=0.8)
    axes.annotate("laps_sd", (axes.get_xlim()[1], level), ha="right", va="top")
    axes.set(
        xlabel="minutes of training on one core", ylabel="mean latency / FCFS's", ylim=(0, None)
    )
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=140)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--draw", type=Path, help="draw what is there, run nothing")
    given = parser.parse_args()
    if given.draw:
        draw(given.out, given.draw)
        return
    given.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(given.cores) as pool:
        waiting = []
        for seed, name in product(range(given.seeds), given.algorithms):
            file = given.out / f"{name}-{seed}.json"
            if not file.exists():
                waiting.append(pool.submit(run, name, seed, given.minutes, file))
        for future in waiting:
            future.result()


if __name__ == "__main__":
    main()
