"""The commit rule of speculative decoding, stated once.

A round at output position t of a request with r tokens left and draft length n drafts
d = min(n, max_draft[t]) tokens, accepts a = min(accepted_length[t], d) of them and commits
min(a + 1, r): the accepted tokens and the target's own next one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.utils.jit import inlined, jit

#: Stands for a drafter that can propose as many tokens as it is asked for.
ANY_DRAFT: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)


@inlined
def drafted_tokens(max_draft: npt.NDArray[np.uint8], position: int, draft_length: int) -> Any:
    """Tokens drafted at a position of the flat arrays; ``max_draft`` may be `ANY_DRAFT`."""
    if max_draft.size == 0:
        return draft_length
    return min(draft_length, np.int64(max_draft[position]))


@inlined
def accepted_tokens(accepted_length: npt.NDArray[np.uint8], position: int, drafted: int) -> Any:
    """Drafted tokens that the target accepts at a position of the flat arrays."""
    return min(np.int64(accepted_length[position]), drafted)


@inlined
def committed_tokens(accepted: int, left: int) -> Any:
    """Tokens that the output grows by, with ``left`` to come."""
    return min(accepted + 1, left)


@jit
def replay_schedule(
    offset: npt.NDArray[np.int64],
    accepted_length: npt.NDArray[np.uint8],
    max_draft: npt.NDArray[np.uint8],
    schedule: npt.NDArray[np.uint8],
    schedule_offset: npt.NDArray[np.int64],
    committed: npt.NDArray[np.int64],
    rounds: npt.NDArray[np.int64],
    reached: npt.NDArray[np.int64],
) -> None:
    """Serve requests with given draft lengths, each to the end of its output or of its schedule.

    Args:
        offset: First output position of each request, int64 [R + 1].
        accepted_length: Draft tokens accepted in a row from each position, uint8 [T].
        max_draft: Most tokens that can be drafted there, uint8 [T], or `ANY_DRAFT`.
        schedule: Draft length of every round, uint8 [S], requests one after the other.
        schedule_offset: First round of each request, int64 [R + 1].
        committed: Tokens of every round, int64 [S] (written; 0 for a round that is not needed).
        rounds: Rounds that each request needed, int64 [R] (written).
        reached: Output tokens that they committed, int64 [R] (written).
    """
    committed[:] = 0
    for i in range(rounds.size):
        position, k = offset[i], schedule_offset[i]
        while position < offset[i + 1] and k < schedule_offset[i + 1]:
            drafted = drafted_tokens(max_draft, position, np.int64(schedule[k]))
            accepted = accepted_tokens(accepted_length, position, drafted)
            committed[k] = committed_tokens(accepted, offset[i + 1] - position)
            position += committed[k]
            k += 1
        rounds[i] = k - schedule_offset[i]
        reached[i] = position - offset[i]
