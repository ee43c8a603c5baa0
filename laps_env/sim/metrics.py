"""What happened in an episode, in numbers (the environment's last ``info``, the result rows)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.sim.commit import ANY_DRAFT, accepted_tokens, committed_tokens, drafted_tokens
from laps_env.sim.costs import Work, duration_ns
from laps_env.sim.server_model import ServerModel
from laps_env.sim.workload import Workload
from laps_env.utils.jit import jit

#: Percentiles of latency that are reported.
PERCENTILES = (50, 95, 99)


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
    alone_ns: npt.NDArray[np.int64],
) -> dict[str, float]:
    """Metrics of one episode, which begins with its first arrival.

    Means and percentiles are over the requests that had arrived at its end, unless it says
    otherwise; unfinished ones count with their latency so far. NaN stands for "no data".

    Args:
        requests: Records of the episode's requests, `laps_env.sim.state.REQUEST` [R].
        server: Record of the server at its end, `laps_env.sim.state.SERVER`.
        alone_ns: Time that each needs alone, int64 [R] (`time_alone_ns`).

    Returns:
        Seconds, unless the name says otherwise:

        - ``requests``, ``started``, ``finished``: counts of those that had arrived, had their
          first token, were complete,
        - ``mean_latency_s``, ``p50_latency_s``, ``p95_latency_s``, ``p99_latency_s``,
          ``max_latency_s``: completion - arrival, backlog included,
        - ``mean_ttft_s``, ``p99_ttft_s``: arrival to the end of the first round, over the started,
        - ``mean_tpot_s``: (completion - first token) / (output tokens - 1), over the finished of
          more than one output token,
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
    done = requests["completion_ns"] > 0
    seen, alone = requests[arrived], alone_ns[arrived]
    finished = requests[done]
    end = np.where(seen["completion_ns"] > 0, seen["completion_ns"], now)
    latency = (end - seen["arrival_ns"]) * 1e-9
    slowdown = (end - seen["arrival_ns"]) / alone
    started = seen[seen["first_token_ns"] > 0]
    ttft = (started["first_token_ns"] - started["arrival_ns"]) * 1e-9
    long = finished[finished["output_tokens"] > 1]
    tpot = (long["completion_ns"] - long["first_token_ns"]) * 1e-9 / (long["output_tokens"] - 1)
    rate = 1.0 / np.maximum(slowdown, 1e-12)
    waiting = seen[seen["first_token_ns"] == 0]
    idle = max(_largest(seen["longest_idle_ns"]), _largest(now - waiting["arrival_ns"]))
    elapsed_ns = now - int(requests["arrival_ns"][0])
    span_ns = max(elapsed_ns, 1)  # before the first round, nothing has been done in no time
    p50, p95, p99 = (float(x) for x in np.percentile(latency, PERCENTILES))
    return {
        "requests": float(seen.size),
        "started": float(started.size),
        "finished": float(finished.size),
        "mean_latency_s": float(latency.mean()),
        "p50_latency_s": p50,
        "p95_latency_s": p95,
        "p99_latency_s": p99,
        "max_latency_s": float(latency.max()),
        "mean_ttft_s": _mean(ttft),
        "p99_ttft_s": float(np.percentile(ttft, 99)) if ttft.size else np.nan,
        "mean_tpot_s": _mean(tpot),
        "mean_slowdown": float(slowdown.mean()),
        "max_slowdown": float(slowdown.max()),
        "jain_fairness": float(rate.sum() ** 2 / (rate.size * (rate**2).sum())),
        "max_idle_s": idle * 1e-9,
        "throughput_rps": finished.size / (span_ns * 1e-9),
        "throughput_tps": float(finished["output_tokens"].sum()) / (span_ns * 1e-9),
        "makespan_s": elapsed_ns * 1e-9,
        "utilization": int(server["busy_ns"]) / span_ns,
        "rounds": float(server["rounds"]),
        "preemptions": float(seen["preemptions"].sum()),
        "recomputed_tokens": float(seen["recomputed_tokens"].sum()),
        "contended_share": int(server["contended"]) / max(int(server["rounds"]), 1),
    }


def _largest(values: npt.NDArray[np.int64]) -> int:
    return int(values.max()) if values.size else 0


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else np.nan
