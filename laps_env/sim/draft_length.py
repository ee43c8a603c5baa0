"""SmartSpec / TurboSpec: the draft length that promises the most tokens per second.

Source: Liu et al., "Optimizing Speculative Decoding for Serving Large Language Models Using
Goodput" (arXiv 2406.14066, section 4): argmax over k of expected accepted tokens over the round's
time. It combines with every order of requests, and is applied at the start of each round.
"""

from __future__ import annotations

from typing import Any

from laps_env.sim.costs import Work, work_ns
from laps_env.utils.jit import jit

#: Longest draft of a round.
MAX_DRAFT_LENGTH = 16

#: Name of the rule, in place of a draft length.
SMARTSPEC = "smartspec"

#: Weight of the past in the running acceptance estimate, per round (assumed: the paper averages
#: over a recent window of unstated length; about 100 rounds here).
FORGETTING = 0.99


@jit
def smartspec_draft_length(c: Any, hits: float, trials: float, batch: int) -> int:
    """Draft length 0..16 of greatest goodput for a round with ``batch`` requests.

    ``hits / trials`` (each request's accepted tokens / tokens whose fate was decided) estimates
    alpha, the probability that the next draft token is accepted; a uniform prior starts it at 1/2.
    """
    alpha = (hits + 1.0) / (trials + 2.0)
    best, best_goodput = 0, 0.0
    power, expected = 1.0, 1.0
    for k in range(MAX_DRAFT_LENGTH + 1):
        work = Work(batch * (k + 1), 0, 0, k, batch * k, 0, 0, 0, 0)
        goodput = batch * expected / work_ns(c, work)
        if goodput > best_goodput:
            best, best_goodput = k, goodput
        power *= alpha
        expected += power
    return best
