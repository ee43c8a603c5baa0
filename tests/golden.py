"""Golden numbers: what the simulator answers, as integers and digests, to be compared bit for bit.

`python tests/golden.py` writes tests/golden.json again: other numbers only under a higher simulator
version, and a higher version only with other numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import laps_env
from laps_env import policies
from laps_env.catalog import list_rules
from laps_env.evaluation.episodes import serve
from laps_env.sim import SIMULATOR_VERSION
from laps_env.workloads.scenarios import get_scenario, list_scenarios

FILE = Path(__file__).with_name("golden.json")

RERUN = "run `python tests/golden.py`"
RAISE = f"raise SIMULATOR_VERSION in laps_env/sim/__init__.py and {RERUN}"

LOAD, SEEDS, REQUESTS = 0.9, (0, 1), 60

#: Integer columns of a request's record, in an order of their own.
COLUMNS = (
    "arrival_ns",
    "prompt_tokens",
    "output_tokens",
    "first_token_ns",
    "completion_ns",
    "completion_order",
    "preemptions",
    "recomputed_tokens",
    "drafted",
    "accepted",
    "attained_ns",
    "longest_idle_ns",
)


#: Columns of `queue` since version 3. Later ones change no number; they have digests of their own.
FIRST, LATER = slice(21), slice(21, None)


def digest(*parts: Any) -> str:
    """Eight hexadecimal digits of the bytes of arrays, or of text."""
    whole = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, str) else np.ascontiguousarray(part)
        whole.update(data.encode() if isinstance(data, str) else data.tobytes())
    return whole.hexdigest()[:8]


def of_requests(requests: Any) -> list[Any]:
    """Total latency in nanoseconds, and a digest of everything that happened to the requests."""
    latency = int((requests["completion_ns"] - requests["arrival_ns"]).sum())
    return [latency, digest(*(requests[name] for name in COLUMNS))]


def policy_names() -> list[str]:
    """Every rule at its defaults; tuned parameters and learned weights are data, not simulator."""
    return [*list_rules(), *(f"fcfs+{rule}" for rule in ("smartspec", "sglang", "rate", "vllm"))]


def of_scenario(name: str, names: Sequence[str] = ()) -> dict[str, list[Any]]:
    """These policies, or all, on two workloads."""
    scenario = get_scenario(name)
    workloads = [
        scenario.workload(load=LOAD, num_requests=REQUESTS, split="test", seed=seed)
        for seed in SEEDS
    ]
    found = {}
    for policy in names or policy_names():
        made = policies.make(policy, scenario)
        found[policy] = [of_requests(serve(made, w, scenario).requests()) for w in workloads]
    return found


def of_steps(
    env: Any, seed: int, policy: Any = None, steps: int = 400, columns: slice = FIRST
) -> str:
    """Everything that an environment shows, under a policy or under random valid actions."""
    observation, info = env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    seen, state, ended = [observation["queue"][:, columns], observation["server"]], None, False
    for _ in range(steps):
        if policy is not None:
            action, state = policy.predict(observation, state)
        elif "action_mask" in info:
            action = rng.choice(np.flatnonzero(info["action_mask"]))
            if isinstance(env.action_space, gym.spaces.MultiDiscrete):
                action = np.array([action, rng.integers(env.action_space.nvec[1])])
        else:
            action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        mask = info.get("action_mask", np.zeros(0, np.int8))
        queue = observation["queue"][:, columns]
        seen += [queue, observation["server"], np.float64(reward), mask]
        ended = terminated or truncated
        if ended:
            break
    return digest(*seen, str(ended))


def of_environments() -> dict[str, str]:
    found = {}
    for scenario in ("mixed-serial-135m", "chat-batch8-8b", "pressure-batch8-135m"):
        options: dict[str, Any] = {
            "scenario": scenario,
            "load": LOAD,
            "num_requests": 12,
            "slots": 10,
        }
        for env_id in laps_env.REPLAY_IDS:
            env = gym.make(env_id, disable_env_checker=True, **options)
            found[f"{env_id} {scenario}"] = of_steps(env, 3)
        for name in ("fcfs", "laps_sd", "gittins"):
            env = gym.make(laps_env.REPLAY_IDS[0], disable_env_checker=True, **options)
            found[f"{name} {scenario}"] = of_steps(env, 5, policies.make(name, scenario))
    limited = "limits-batch8-8b"
    env = gym.make(laps_env.REPLAY_IDS[0], disable_env_checker=True, scenario=limited, load=LOAD)
    edf = policies.make("edf", limited)
    found[f"edf {limited}"] = of_steps(env, 5, edf, steps=2000, columns=LATER)
    return found


def of_vectors() -> dict[str, list[str]]:
    """Four rows under random valid actions; a digest each of all that they show."""
    found = {}
    for scenario in ("mixed-serial-135m", "bursty-batch8-8b"):
        for mode in ("NextStep", "SameStep"):
            envs = gym.make_vec(
                laps_env.REPLAY_IDS[0],
                num_envs=4,
                autoreset_mode=mode,
                scenario=scenario,
                load=LOAD,
                num_requests=5,
                slots=8,
            )
            observation, info = envs.reset(seed=11)
            rng = np.random.default_rng(0)
            seen: list[list[Any]] = [[] for _ in range(4)]
            for _ in range(600):
                actions = np.array([rng.choice(np.flatnonzero(m)) for m in info["action_mask"]])
                observation, reward, terminated, truncated, info = envs.step(actions)
                for row, shown in enumerate(seen):
                    shown += [
                        observation["queue"][row, :, FIRST],
                        observation["server"][row],
                        reward[row],
                        terminated[row],
                        truncated[row],
                    ]
            found[f"{scenario} {mode}"] = [digest(*shown) for shown in seen]
    return found


def of_live() -> dict[str, list[Any]]:
    """A tiny pair by the cost model's clock."""
    from tiny_models import tiny_pair

    found = {}
    for drafter in ("model", "head", "lookup"):
        for name, draft_length in (("fcfs", 3), ("laps_sd", "smartspec")):
            env = gym.make(
                laps_env.LIVE_ID,
                disable_env_checker=True,
                target=tiny_pair(drafter),
                max_new_tokens=24,
                clock="calibrated",
                load=2.0,
                num_requests=8,
                slots=6,
                batch_size=3,
                draft_length=draft_length,
            )
            shown = of_steps(env, 2, policies.make(name, "demo"))
            inner: Any = env.unwrapped
            texts = digest(*inner.summary()["texts"])
            found[f"{drafter} {name}"] = [shown, texts, *of_requests(inner.simulation.requests())]
    return found


def golden_numbers() -> dict[str, Any]:
    """All of them, and the simulator version that they belong to."""
    with ThreadPoolExecutor(2) as pool:
        scenarios = dict(
            zip(list_scenarios(), pool.map(of_scenario, list_scenarios()), strict=True)
        )
    return {
        "simulator": SIMULATOR_VERSION,
        "scenarios": scenarios,
        "environments": of_environments(),
        "vectors": of_vectors(),
        "live": of_live(),
    }


def recorded() -> dict[str, Any]:
    """The numbers of tests/golden.json."""
    return json.loads(named_as_today(FILE.read_text(encoding="utf-8")))


def named_as_today(text: str) -> str:
    """The one map of names, from those of the day on which the numbers were taken."""
    renamed = r"\b(chat|code|math|mixed|bursty|pressure|specbench)-(serial|batch8)(?!-)"
    text = re.sub(renamed, r"\1-\2-135m", text)
    return text.replace("SpecDecodeReplayPriority", "SpecDecodeReplayScores")


def differ(before: Any, after: Any) -> bool:
    """Whether a number that both hold differs; scenarios and policies come and go."""
    if isinstance(before, dict):
        return any(differ(before[name], after[name]) for name in before.keys() & after.keys())
    return bool(before != after)


def check_version(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Refuse numbers under a version that others have, and a version that changes none."""
    old, new = before["simulator"], after["simulator"]
    changed = differ({**before, "simulator": new}, after)
    if changed and new <= old:
        raise SystemExit(f"numbers differ from those of version {old}, got version {new}: {RAISE}")
    if new != old and not changed:
        raise SystemExit(f"no number differs from those of version {old}: expected it, got {new}")


if __name__ == "__main__":
    numbers = golden_numbers()
    check_version(recorded(), numbers)
    FILE.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
