"""The state of the servers as compiled code sees it: records, and the arrays that hold them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from laps_env.sim.adaptive_steps import KEPT
from laps_env.sim.gaps import BINS
from laps_env.utils.jit import inlined

FREE = -1

#: In place of an arrival.
NEVER = 2**62

#: In place of a limit in nanoseconds where a request has none.
NO_LIMIT = 2**62
#: Limits of a request: to the first token, per output token behind it, to the last.
LIMITS = ("ttft_limit_ns", "tpot_limit_ns", "e2e_limit_ns")

#: Totals of one server; times in nanoseconds, counts of requests, cache in tokens.
SERVER = np.dtype(
    [
        ("now", np.int64),
        ("requests", np.int64),  # in the episode
        ("arrived", np.int64),
        ("latest_ns", np.int64),  # arrival of the last of these
        ("next_ns", np.int64),  # arrival of the next request, or `NEVER`
        ("load", np.float64),  # rate of the last arrivals / saturation throughput
        ("admitted", np.int64),  # have a slot or had one
        ("finished", np.int64),
        ("active", np.int64),  # in a slot now
        ("picked", np.int64),  # for the next round
        ("ran", np.int64),  # requests in the last round, the finished among them
        ("wanted", np.int64),  # context tokens of all requests in slots
        ("held", np.int64),  # of those, tokens in the cache
        ("reserved", np.int64),  # context + look-ahead of the picked
        ("offloads", np.int64),  # requests moved to the host by the round at hand
        ("offloaded", np.int64),  # tokens of these
        ("rounds", np.int64),
        ("contended", np.int64),  # rounds that left somebody waiting
        ("busy_ns", np.int64),
        ("integral_ns", np.int64),  # of the number in the system, over the step
        ("draft_length", np.int64),  # of the round at hand, where no schedule is given
        ("last_draft_length", np.int64),
        ("undrafted", np.int64),  # rounds since the last that drafted
        ("draft_step_ns", np.float64),  # as measured in the last round that drafted
        ("verify_ns", np.float64),  # as measured in the last round
        ("saturation_rps", np.float64),  # of the scenario, for the load estimate
        ("hits", np.float64),  # SmartSpec's running acceptance
        ("trials", np.float64),
        ("lookahead", np.int64),  # cache tokens that a pick reserves beyond the context
        ("limited", np.int64),  # a request has limits
        ("refresh_every", np.int64),  # tokens between refreshes of a prediction, 0: none
        ("drafts_by", np.int64),  # who decides draft lengths: `BY_SERVER` and those after it
        ("time_limit_ns", np.int64),  # of an episode, from its first arrival
        ("cut_ns", np.int64),  # when it is cut: first arrival + limit
        ("queue_limit", np.int64),
        ("truncated", np.int64),
        ("order", np.int64),  # completions so far, numbers them
        ("settled", np.int64),  # requests before the first unfinished one, as `objectives` saw it
        ("settled_cost", np.float64),  # of these
        ("cost", np.float64),  # of all that have arrived
    ],
    align=True,
)

#: What a step reads of every occupied slot of every server; the rest of a slot lies elsewhere, so
#: that this stays little.
HOT = np.dtype(
    [
        ("arrival_ns", np.int64),
        ("served_at", np.int64),  # end of its last round, or its arrival
        ("served_round", np.int32),  # server rounds at served_at, or when it got the slot
        ("context", np.int32),  # prompt + generated
        ("picked", np.int8),
    ],
    align=True,
)

#: The rest of one slot of the request table.
SLOT = np.dtype(
    [
        ("attained_ns", np.int64),
        ("position", np.int64),  # of its next output token in the flat arrays
        ("chance", np.float64),  # that the draft is accepted up to its next unverified token
        ("threshold", np.float64),  # below which the rule stops a draft (`laps_env.sim.confidence`)
        ("drafted", np.int32),
        ("accepted", np.int32),
        ("refused", np.int32),  # rounds in which a draft token was
        ("request", np.int32),  # FREE or the request's arrival number
        ("generated", np.int32),
        ("rounds", np.int32),
        ("preemptions", np.int32),
        ("drafting", np.int16),  # tokens drafted in the round at hand
        ("verifying", np.int16),  # of these, the first so many
        ("asked", np.int16),  # that the agent or the rule wants, where it decides
        ("resident", np.int8),
        ("swapped", np.int8),
        ("ran", np.int8),  # in the last round
    ],
    align=True,
)

#: Who decides draft lengths: the server's number or rule, a given schedule, the agent.
BY_SERVER, BY_SCHEDULE, BY_AGENT = range(3)

#: One request of the episode: what was given, and what happened (0 until it does). What a round
#: reads and writes comes first, so that it shares a line of the cache.
REQUEST = np.dtype(
    [
        ("offset", np.int64),  # of its acceptance in the flat arrays
        ("output_tokens", np.int64),
        ("first_token_ns", np.int64),
        ("longest_idle_ns", np.int64),  # time without a round
        ("longest_stall_ns", np.int64),  # from one delivery of tokens to the next
        ("arrival_ns", np.int64),
        ("prompt_tokens", np.int64),
        ("category", np.int64),
        ("schedule_offset", np.int64),
        ("refresh_offset", np.int64),
        ("predicted_tokens", np.float64),
        ("weight", np.float64),  # of its cost under an objective
        ("ttft_limit_ns", np.int64),  # `NO_LIMIT` where there is none, as the next
        ("tpot_limit_ns", np.int64),
        ("e2e_limit_ns", np.int64),
        ("completion_ns", np.int64),
        ("completion_order", np.int64),
        ("preemptions", np.int64),
        ("recomputed_tokens", np.int64),
        ("drafted", np.int64),
        ("accepted", np.int64),
        ("attained_ns", np.int64),
    ],
    align=True,
)

#: One round of one request, as the windowed acceptance needs it.
ROUND = np.dtype([("rate", np.float64), ("drafted", np.uint8), ("accepted", np.uint8)], align=True)


class Episode(NamedTuple):
    """Everything that one server's rounds read or write."""

    requests: npt.NDArray[Any]  # REQUEST [R]
    accepted_length: npt.NDArray[np.uint8]  # [T] flat over output positions
    max_draft: npt.NDArray[np.uint8]  # [T], or [0] where every draft length can be proposed
    schedule: npt.NDArray[np.uint8]  # [S] given draft lengths, or [0]
    confidence: npt.NDArray[np.uint8]  # [T] of the draft in its token, or [0] where nobody asks
    refreshed_tokens: npt.NDArray[np.float64]  # [F] predictions told while a request runs, or [0]
    slots: npt.NDArray[Any]  # SLOT [N]
    hot: npt.NDArray[Any]  # HOT [N]
    active: npt.NDArray[np.int32]  # [N] occupied slots in order of arrival
    batch: npt.NDArray[np.int32]  # [N] picked slots in the order of picking
    ran: npt.NDArray[np.int32]  # [N] slots of the last round
    ranked: npt.NDArray[np.int32]  # [N] scratch
    window: npt.NDArray[Any]  # ROUND [N, W] the last rounds of each slot, a ring
    queue: npt.NDArray[np.float32]  # [N, F] the observation's rows, kept current
    gaps: npt.NDArray[np.int32]  # [BINS] time between deliveries, counted
    adaptive: npt.NDArray[np.float64]  # [4, 3] what `adaptive_steps` keeps, or [0, 3]


class BatchedState(NamedTuple):
    """State of E servers with N slots each; index i of every array belongs to server i."""

    servers: npt.NDArray[Any]  # SERVER [E]
    requests: npt.NDArray[Any]  # REQUEST [E, R]
    accepted_length: npt.NDArray[np.uint8]  # [E, T]
    max_draft: npt.NDArray[np.uint8]  # [E, T] or [E, 0]
    schedule: npt.NDArray[np.uint8]  # [E, S]
    confidence: npt.NDArray[np.uint8]  # [E, T] or [E, 0]
    refreshed_tokens: npt.NDArray[np.float64]  # [E, F]
    slots: npt.NDArray[Any]  # SLOT [E, N]
    hot: npt.NDArray[Any]  # HOT [E, N]
    active: npt.NDArray[np.int32]  # [E, N]
    batch: npt.NDArray[np.int32]  # [E, N]
    ran: npt.NDArray[np.int32]  # [E, N]
    ranked: npt.NDArray[np.int32]  # [E, N]
    window: npt.NDArray[Any]  # ROUND [E, N, W]
    queue: npt.NDArray[np.float32]  # [E, N, F] observation
    gaps: npt.NDArray[np.int32]  # [E, BINS]
    adaptive: npt.NDArray[np.float64]  # [E, 4, 3] or [E, 0, 3]
    server_obs: npt.NDArray[np.float32]  # [E, G] observation
    mask: npt.NDArray[np.int8]  # [E, N + 1] valid actions
    terminated: npt.NDArray[np.bool_]  # [E] all requests are finished
    truncated: npt.NDArray[np.bool_]  # [E] cut by a limit before that
    reward: npt.NDArray[np.float64]  # [E] of the last step
    dt: npt.NDArray[np.float64]  # [E] seconds of the last step
    ran_round: npt.NDArray[np.bool_]  # [E] the last step ran a round
    invalid: npt.NDArray[np.bool_]  # [E] the last action was masked


def make_state(
    num_envs: int,
    slots: int,
    window: int,
    queue_columns: int,
    server_columns: int,
    adaptive: int = 0,
) -> BatchedState:
    """Empty state; the arrays that hold workloads grow when one is put on it."""
    e, n = num_envs, slots
    empty = np.zeros((e, n), SLOT)
    empty["request"] = FREE
    return BatchedState(
        servers=np.zeros(e, SERVER),
        requests=np.zeros((e, 0), REQUEST),
        accepted_length=np.zeros((e, 0), np.uint8),
        max_draft=np.zeros((e, 0), np.uint8),
        schedule=np.zeros((e, 0), np.uint8),
        confidence=np.zeros((e, 0), np.uint8),
        refreshed_tokens=np.zeros((e, 0)),
        slots=empty,
        hot=np.zeros((e, n), HOT),
        active=np.zeros((e, n), np.int32),
        batch=np.zeros((e, n), np.int32),
        ran=np.zeros((e, n), np.int32),
        ranked=np.zeros((e, n), np.int32),
        window=np.zeros((e, n, window), ROUND),
        queue=np.zeros((e, n, queue_columns), np.float32),
        gaps=np.zeros((e, BINS), np.int32),
        adaptive=np.zeros((e, adaptive, KEPT)),
        server_obs=np.zeros((e, server_columns), np.float32),
        mask=np.zeros((e, n + 1), np.int8),
        terminated=np.zeros(e, np.bool_),
        truncated=np.zeros(e, np.bool_),
        reward=np.zeros(e),
        dt=np.zeros(e),
        ran_round=np.zeros(e, np.bool_),
        invalid=np.zeros(e, np.bool_),
    )


@inlined
def episode_of(state: BatchedState, i: int) -> Episode:
    """Arrays of server i."""
    return Episode(
        state.requests[i],
        state.accepted_length[i],
        state.max_draft[i],
        state.schedule[i],
        state.confidence[i],
        state.refreshed_tokens[i],
        state.slots[i],
        state.hot[i],
        state.active[i],
        state.batch[i],
        state.ran[i],
        state.ranked[i],
        state.window[i],
        state.queue[i],
        state.gaps[i],
        state.adaptive[i],
    )
