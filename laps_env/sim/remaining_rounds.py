"""What only a clairvoyant knows: how many rounds a request still needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.utils.jit import jit
from laps_env.workloads import Workload


@jit
def _rounds_to_go(
    offset: npt.NDArray[np.int64],
    accepted_length: npt.NDArray[np.uint8],
    max_draft: npt.NDArray[np.uint8],
    draft_length: int,
    to_go: npt.NDArray[np.float64],
) -> None:
    """Backwards: one round, then what is left from where it ends."""
    for i in range(offset.size - 1):
        for position in range(offset[i + 1] - 1, offset[i] - 1, -1):
            n: Any = draft_length
            if max_draft.size > 0:
                n = min(n, np.int64(max_draft[position]))
            after = position + min(np.int64(accepted_length[position]), n) + 1
            to_go[position] = 1.0 + (to_go[after] if after < offset[i + 1] else 0.0)


def remaining_rounds(workload: Workload, draft_length: int) -> npt.NDArray[np.float64]:
    """Rounds from each output position to the request's end.

    Args:
        workload: the requests.
        draft_length: tokens drafted in every round.

    Returns:
        float64 [T], >= 1; the value at a request's first position is its total.
    """
    to_go = np.empty(workload.accepted_length.size)
    max_draft = workload.max_draft if workload.max_draft is not None else np.zeros(0, np.uint8)
    _rounds_to_go(workload.offset, workload.accepted_length, max_draft, draft_length, to_go)
    return to_go
