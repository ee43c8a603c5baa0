"""What a scenario's requests are like, in a few numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from laps_env.utils.splits import Split
from laps_env.workloads.scenario import Scenario

#: Requests that are looked at.
REQUESTS = 2000


class Numbers(NamedTuple):
    """Means over requests of the *calibration* split.

    Attributes:
        prompt_tokens, output_tokens: Lengths in tokens.
        acceptance: A = accepted / drafted at the server's draft length, NaN where that is 0 or
            chosen by a rule; the last round of a request counts whole.
        tokens_per_round: Tokens that a round commits; likewise.
    """

    prompt_tokens: float
    output_tokens: float
    acceptance: float
    tokens_per_round: float


def numbers_of(scenario: Scenario) -> Numbers:
    """The numbers of a scenario whose saturation is known."""
    workload = scenario.workload(load=1.0, num_requests=REQUESTS, split=Split.CALIBRATION)
    draft_length = scenario.server.draft_length
    n = scenario.server.reference_draft_length
    position, end = workload.offset[:-1].copy(), workload.offset[1:]
    accepted = rounds = 0
    while (running := position < end).any():
        position, end = position[running], end[running]
        hits = np.minimum(workload.accepted_length[position], n).astype(np.int64)
        accepted += int(hits.sum())
        rounds += hits.size
        position = position + hits + 1
    return Numbers(
        float(workload.prompt_tokens.mean()),
        float(workload.output_tokens.mean()),
        accepted / (n * rounds) if n else np.nan,
        workload.output_tokens.sum() / rounds if isinstance(draft_length, int) else np.nan,
    )
