"""Small random workloads and servers, as keyword arguments, for the tests of the simulators."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def random_workload(rng: np.random.Generator) -> dict[str, Any]:
    """Keyword arguments of a Workload of 1 to 30 requests.

    The time scale goes from all at once, over a few ns (arrivals that meet the ends of rounds
    exactly, and each other), to gaps much longer than a round (idle server).
    """
    count = int(rng.integers(1, 31))
    scale = int(rng.choice([0, 3, 30, 10**6, 10**8]))
    gaps = rng.integers(0, scale + 1, count) * rng.integers(0, 2, count)
    output = rng.integers(1, 41, count)
    tokens = int(output.sum())
    longest_schedule = int(rng.choice([4, 12, 255]))
    scheduled = rng.random() < 0.25
    return {
        "arrival_ns": np.cumsum(gaps).astype(np.int64),
        "prompt_tokens": rng.integers(1, 60, count).astype(np.int64),
        "output_tokens": output.astype(np.int64),
        "predicted_tokens": rng.uniform(0.5, 50.0, count),
        "category": rng.integers(0, 3, count).astype(np.int64),
        "offset": _offsets(output),
        "accepted_length": rng.integers(0, rng.integers(1, 22), tokens).astype(np.uint8),
        "max_draft": rng.integers(0, 10, tokens).astype(np.uint8) if rng.random() < 0.4 else None,
        # A round commits at least one token, so an entry per token is always enough.
        "draft_schedule": rng.integers(0, longest_schedule + 1, tokens).astype(np.uint8)
        if scheduled
        else None,
        "draft_schedule_offset": _offsets(output) if scheduled else None,
        "limits_ns": _random_limits(output),
        **_random_refreshes(output),
        "categories": ("a", "b", "c"),
        "source": "random",
    }


def _random_limits(output: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """None, or limits from some ns to an hour, of which one in three is none.

    They are drawn by themselves, so that an instance of before is the same but for them.
    """
    rng = np.random.default_rng(output)
    if rng.random() < 0.6:
        return None
    limits = (10 ** rng.uniform(0, 12, (output.size, 3))).astype(np.int64) + 1
    limits[rng.random((output.size, 3)) < 1 / 3] = 2**62
    return limits


def _random_refreshes(output: npt.NDArray[np.int64]) -> dict[str, Any]:
    """No refreshes, or one after every few tokens; drawn by themselves, as limits are."""
    rng = np.random.default_rng([*output, 31])
    every = int(rng.choice([0, 1, 2, 7]))
    told = [k for length in output for k in (range(every, length, every) if every else ())]
    refreshed = np.array(told) + rng.uniform(0.01, 50.0, len(told))
    return {"refresh_every": every, "refreshed_tokens": refreshed if every else None}


def random_server(rng: np.random.Generator, workload: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a ServerModel ("cost": those of its CostModel) for that workload.

    The pool holds the largest request, with no token to spare in the tightest case.
    """
    number = int(rng.integers(0, 9))
    draft_length: Any = number
    if (drawn := rng.random()) < 0.4:
        rules = ("rate", "smartspec", "sglang", tuple((number + np.arange(3) * 5) % 9))
        draft_length = rules[int(drawn * 10)]
    longest = 0 if drawn < 0.4 else number  # what chooses drafts what has room
    lookahead = (255 if workload["draft_schedule"] is not None else longest) + 1
    largest = int((workload["prompt_tokens"] + workload["output_tokens"]).max()) + lookahead
    batch_size = int(rng.integers(1, 6))
    room = [0, int(rng.integers(0, 60)), int(rng.integers(0, batch_size * largest)), 100_000]
    return {
        "cost": _random_cost(rng),
        "batch_size": batch_size,
        "draft_length": draft_length,
        "pool_tokens": largest + int(rng.choice(room)),
        "eviction": str(rng.choice(["recompute", "swap"])),
        "victim": str(rng.choice(["longest_idle", "latest_arrival", "largest"])),
        "acceptance_window": int(rng.integers(1, 13)),
    }


def _random_cost(rng: np.random.Generator) -> dict[str, float]:
    """Costs of rounds of a few ns or of some ms: whole, halves (ties of rounding) or any float."""
    scale = float(rng.choice([4, 10**6]))
    largest = {
        "overhead_ns": 1.0,
        "target_pass_ns": 5.0,
        "target_token_ns": 0.2,
        "target_kv_token_ns": 0.02,
        "draft_step_ns": 1.0,
        "draft_token_ns": 0.2,
        "draft_kv_token_ns": 0.01,
        "prefill_request_ns": 1.0,
        "swap_request_ns": 1.0,
        "swap_token_ns": 0.1,
    }
    rounding = rng.choice(["whole", "half", "any"])
    cost = {}
    for name, share in largest.items():
        value = rng.uniform(0, share * scale) * (rng.random() < 0.7)
        if rounding != "any":
            step = 1.0 if rounding == "whole" else 0.5
            value = np.ceil(value / step) * step
        cost[name] = float(value)
    cost["target_pass_ns"] += 1.0
    return cost


def _offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
