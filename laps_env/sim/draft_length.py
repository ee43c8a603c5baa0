"""SmartSpec / TurboSpec: the draft length that promises the most tokens per second.

Source: Liu et al., "Optimizing Speculative Decoding for Serving Large Language Models Using
Goodput" (arXiv 2406.14066, section 4): argmax over k of expected accepted tokens over the round's
time. It combines with every order of requests, and is applied at the start of each round.

Where k = 0 is best nothing is drafted and nothing more learned of the acceptance, so that a single
bad stretch would switch speculation off for ever: after `PROBE_ROUNDS` rounds without a draft, one
round drafts `PROBE_LENGTH` tokens (assumed; the paper is silent).
"""

from __future__ import annotations

from typing import Any

from laps_env.sim.costs import Work, work_ns
from laps_env.utils.jit import inlined, jit

#: Longest draft of a round.
MAX_DRAFT_LENGTH = 16

#: Name of the rule, in place of a draft length.
SMARTSPEC = "smartspec"

#: In place of a draft length: what the scheduling rule asks for each of its requests.
POLICY = "policy"

#: What stands in the kernel's constants for a rule that chooses, or for a table.
BY_SMARTSPEC, BY_SGLANG, BY_TABLE, BY_POLICY = -1, -2, -3, -5

#: Batch sizes that a table of draft lengths has entries for; larger ones take the last.
TABLE_SIZE = 64

#: Weight of the past in the running acceptance estimate, per round (assumed: the paper averages
#: over a recent window of unstated length; about 100 rounds here).
FORGETTING = 0.99


#: Rounds without a draft after which the acceptance is probed, and with how many tokens.
PROBE_ROUNDS = 50
PROBE_LENGTH = 2


@jit
def smartspec_draft_length(c: Any, server: Any, kv: int, longest: int) -> int:
    """Draft length 0..``longest`` of greatest goodput for the picked requests.

    The time is that of the whole round but for caches that are restored in it, which must be paid
    whatever is drafted: with them the rule drafts too much whenever a request is new (mean latency
    44 % higher in pressure-batch8-135m, 1 to 4 % in eight others).

    Args:
        c: Constants of the server.
        server: Record of the server, with its picked requests.
        kv: Context tokens of these.
        longest: Most tokens a request for which the pool has room.
    """
    batch = server.picked
    alpha = mean_acceptance(server)
    best, best_goodput = 0, 0.0
    power, expected = 1.0, 1.0
    for k in range(min(longest, MAX_DRAFT_LENGTH) + 1):
        work = Work(batch * (k + 1), 0, kv, k, batch * k, k * kv, 0, 0, 0)
        goodput = batch * expected / work_ns(c, work)
        if goodput > best_goodput:
            best, best_goodput = k, goodput
        power *= alpha
        expected += power
    if best == 0 and server.undrafted >= PROBE_ROUNDS:
        return min(longest, PROBE_LENGTH)
    return best


@inlined
def mean_acceptance(server: Any) -> Any:
    """Estimate of alpha, the probability that the next draft token is accepted, over all requests.

    It is ``hits / trials``, their accepted tokens / tokens whose fate was decided; a uniform prior
    starts it at 1/2.
    """
    return (server.hits + 1.0) / (server.trials + 2.0)
