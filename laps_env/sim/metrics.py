"""What happened in an episode, in numbers (the environment's last ``info``, the result rows)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.sim.commit import ANY_DRAFT, accepted_tokens, committed_tokens, drafted_tokens
from laps_env.sim.costs import Work, duration_ns
from laps_env.sim.gaps import gap_quantile_s
from laps_env.sim.server_model import ServerModel
from laps_env.sim.state import LIMITS, NO_LIMIT
from laps_env.sim.workload import Workload
from laps_env.utils.jit import jit

#: Percentiles that are reported, enough to draw a distribution.
PERCENTILES = (10, 25, 50, 75, 90, 95, 99)

#: Beginning of the names of the mean latencies by category.
OF_CATEGORY = "mean_latency_s/"


@jit
def _serve_alone(
    c: Any,
    draft_length: int,
    offset: npt.NDArray[np.int64],
    prompt_tokens: npt.NDArray[np.int64],
    accepted_length: npt.NDArray[np.uint8],
    max_draft: npt.NDArray[np.uint8],
    alone_ns: npt.NDArray[np.int64],
) -> None:
    """Each request on an empty server, in batches of one."""
    for i in range(prompt_tokens.size):
        position = offset[i]
        prefills = 1
        while position < offset[i + 1]:
            n = drafted_tokens(max_draft, position, draft_length)
            context = prompt_tokens[i] + position - offset[i]
            work = Work(n + 1, prefills * context, context, n, n, n * context, prefills, 0, 0)
            alone_ns[i] += duration_ns(c, work)
            accepted = accepted_tokens(accepted_length, position, n)
            position += committed_tokens(accepted, offset[i + 1] - position)
            prefills = 0


def time_alone_ns(
    workload: Workload, server: ServerModel, draft_length: int
) -> npt.NDArray[np.int64]:
    """Time that each request needs alone on an empty server, prefill included.

    Args:
        workload: Requests to serve.
        server: Server whose cost model counts.
        draft_length: Reference draft length of the scenario, whatever rule is in force.

    Returns:
        Nanoseconds, int64 [R].
    """
    alone = np.zeros(workload.num_requests, np.int64)
    _serve_alone(
        server.constants(),
        draft_length,
        workload.offset,
        workload.prompt_tokens,
        workload.accepted_length,
        ANY_DRAFT if workload.max_draft is None else workload.max_draft,
        alone,
    )
    return alone


def summarize(
    requests: npt.NDArray[Any],
    server: Any,
    gaps: npt.NDArray[np.int32],
    alone_ns: npt.NDArray[np.int64],
    categories: Sequence[str],
) -> dict[str, float]:
    """Metrics of one episode, which begins with its first arrival.

    Means and percentiles are over the requests that had arrived at its end, unless it says
    otherwise; unfinished ones count with their latency so far. NaN stands for "no data".
    `docs/metrics.md` has each with its formula and population.

    Args:
        requests: Records of the episode's requests, `laps_env.sim.state.REQUEST` [R].
        server: Record of the server at its end, `laps_env.sim.state.SERVER`.
        gaps: Time between deliveries of tokens, counted, [`laps_env.sim.gaps.BINS`].
        alone_ns: Time that each needs alone, int64 [R] (`time_alone_ns`).
        categories: Names of the task categories.

    Returns:
        Seconds, unless the name says otherwise:

        - ``requests``, ``started``, ``finished``: counts of those that had arrived, had their
          first token, were complete,
        - ``mean_latency_s``, ``p10_latency_s``, ``p25_latency_s``, ``p50_latency_s``,
          ``p75_latency_s``, ``p90_latency_s``, ``p95_latency_s``, ``p99_latency_s``,
          ``max_latency_s``: completion - arrival, backlog included,
        - ``mean_latency_s/<category>``: its mean over each category that has a request,
        - ``mean_ttft_s``, the same percentiles ``p10_ttft_s``, ...: arrival to the end of the
          first round, over the started,
        - ``mean_tpot_s``, ``p10_tpot_s``, ...: (completion - first
          token) / (output tokens - 1), over the finished of more than one output token,
        - ``p99_itl_s``: time from one delivery of tokens to the next, over all of them, within
          1.6 % (`laps_env.sim.gaps`); ``longest_stall_s``: the longest,
        - where there are limits, ``slo_attainment``: share of those with limits that were complete
          within all of them; ``goodput_rps``: such requests per second,
        - ``mean_slowdown``, ``max_slowdown``: latency / time alone,
        - ``jain_fairness``: Jain's index of 1 / slowdown, in (0, 1],
        - ``max_idle_s``: longest time that any request waited for a round (starvation),
        - ``throughput_rps``, ``throughput_tps``: finished requests, their tokens, per second,
        - ``makespan_s``, ``utilization``: first arrival to the end, share of it spent in rounds,
        - ``rounds``, ``preemptions``, ``recomputed_tokens``: totals,
        - ``contended_share``: share of the rounds that left somebody waiting; where it is 0, order
          cannot matter.
    """
    now = int(server["now"])
    arrived = requests["arrival_ns"] <= now
    seen, alone = _those(requests, arrived), _those(alone_ns, arrived)
    done = seen["completion_ns"] > 0
    finished, started = _those(seen, done), _those(seen, seen["first_token_ns"] > 0)
    latency_ns = np.where(done, seen["completion_ns"], now) - seen["arrival_ns"]
    latency, slowdown = latency_ns * 1e-9, latency_ns / alone
    rate = 1.0 / np.maximum(slowdown, 1e-12)
    waiting = seen[seen["first_token_ns"] == 0]
    idle = max(_largest(seen["longest_idle_ns"]), _largest(now - waiting["arrival_ns"]))
    elapsed_ns = now - int(requests["arrival_ns"][0])
    span_s = max(elapsed_ns, 1) * 1e-9  # before the first round, nothing has been done in no time
    limited = _those(seen, has_limits(seen))
    met = int(within_limits(limited).sum())
    return {
        "requests": float(seen.size),
        "started": float(started.size),
        "finished": float(finished.size),
        **_distribution("latency_s", latency),
        "max_latency_s": float(latency.max()),
        **{
            f"{OF_CATEGORY}{name}": float(latency[seen["category"] == k].mean())
            for k, name in enumerate(categories)
            if (seen["category"] == k).any()
        },
        **_distribution("ttft_s", (started["first_token_ns"] - started["arrival_ns"]) * 1e-9),
        **_distribution("tpot_s", _time_per_token_ns(finished) * 1e-9),
        "p99_itl_s": gap_quantile_s(gaps, 0.99),
        "longest_stall_s": _largest(seen["longest_stall_ns"]) * 1e-9,
        **(
            {"slo_attainment": met / limited.size, "goodput_rps": met / span_s}
            if limited.size
            else {}
        ),
        "mean_slowdown": float(slowdown.mean()),
        "max_slowdown": float(slowdown.max()),
        "jain_fairness": float(rate.sum() ** 2 / (rate.size * (rate**2).sum())),
        "max_idle_s": idle * 1e-9,
        "throughput_rps": finished.size / span_s,
        "throughput_tps": float(finished["output_tokens"].sum()) / span_s,
        "makespan_s": elapsed_ns * 1e-9,
        "utilization": int(server["busy_ns"]) * 1e-9 / span_s,
        "rounds": float(server["rounds"]),
        "preemptions": float(seen["preemptions"].sum()),
        "recomputed_tokens": float(seen["recomputed_tokens"].sum()),
        "contended_share": int(server["contended"]) / max(int(server["rounds"]), 1),
    }


def has_limits(requests: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether each request (`laps_env.sim.state.REQUEST`) has a limit, [R]."""
    return np.minimum.reduce([requests[name] for name in LIMITS]) < NO_LIMIT


def within_limits(requests: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether each request (`laps_env.sim.state.REQUEST`) was complete within its limits, [R]."""
    first = requests["first_token_ns"] - requests["arrival_ns"]
    whole = requests["completion_ns"] - requests["arrival_ns"]
    decoding = requests["completion_ns"] - requests["first_token_ns"]
    tokens = np.maximum(requests["output_tokens"] - 1, 1)
    met: npt.NDArray[np.bool_] = (
        (requests["completion_ns"] > 0)
        & (first <= requests["ttft_limit_ns"])
        & (decoding / tokens <= requests["tpot_limit_ns"])
        & (whole <= requests["e2e_limit_ns"])
    )
    return met


def _time_per_token_ns(finished: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Of the finished requests of more than one output token."""
    long = _those(finished, finished["output_tokens"] > 1)
    spent: npt.NDArray[np.float64] = long["completion_ns"] - long["first_token_ns"]
    return spent / (long["output_tokens"] - 1)


def _those(values: npt.NDArray[Any], chosen: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """The chosen of some values; no copy of a million records where all are."""
    return values if chosen.all() else values[chosen]


def _distribution(name: str, values: npt.NDArray[np.float64]) -> dict[str, float]:
    """Mean and percentiles under their names, NaN where there are no values."""
    if not values.size:
        return {f"{word}_{name}": np.nan for word in ("mean", *(f"p{q}" for q in PERCENTILES))}
    cuts = np.percentile(values, PERCENTILES)
    found = {f"p{q}_{name}": float(cut) for q, cut in zip(PERCENTILES, cuts, strict=True)}
    return {f"mean_{name}": float(values.mean()), **found}


def _largest(values: npt.NDArray[np.int64]) -> int:
    return int(values.max()) if values.size else 0
