"""Rounds that a request still needs: what only a clairvoyant knows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from laps_env.sim.commit import ANY_DRAFT, accepted_tokens, committed_tokens, drafted_tokens
from laps_env.sim.workload import Workload
from laps_env.utils.jit import jit


@jit
def _count_backwards(
    offset: npt.NDArray[np.int64],
    accepted_length: npt.NDArray[np.uint8],
    max_draft: npt.NDArray[np.uint8],
    draft_length: int,
    remaining: npt.NDArray[np.float64],
) -> None:
    """One round, then what is left from where it ends."""
    for i in range(offset.size - 1):
        end = offset[i + 1]
        for position in range(end - 1, offset[i] - 1, -1):
            drafted = drafted_tokens(max_draft, position, draft_length)
            accepted = accepted_tokens(accepted_length, position, drafted)
            after = position + committed_tokens(accepted, end - position)
            remaining[position] = 1.0 + (remaining[after] if after < end else 0.0)


def remaining_rounds(workload: Workload, draft_length: int) -> npt.NDArray[np.float64]:
    """Rounds from each output position to the request's end.

    Args:
        workload: Requests to count for.
        draft_length: Tokens drafted in every round.

    Returns:
        Counts, float64 [T], >= 1; that at a request's first position is its total.
    """
    remaining = np.empty(workload.accepted_length.size)
    max_draft = ANY_DRAFT if workload.max_draft is None else workload.max_draft
    _count_backwards(workload.offset, workload.accepted_length, max_draft, draft_length, remaining)
    return remaining
