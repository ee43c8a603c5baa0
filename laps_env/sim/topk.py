"""Verifying the surest drafted tokens of the batch: top-k of the draft's confidences over it.

Source: vLLM 0.33, adaptive verification (its pull request 47808). All requests draft N tokens. The
chance that a token is accepted is the product of confidences since the round began, so it falls
along a draft; of all tokens of the batch the k of greatest chance are verified, a prefix of each
request's draft. k is that of most expected tokens per time: batch + the sum of the chances, over
the time of the round, whose draft steps have been paid for whatever k.

As in `smartspec_draft_length`, caches that are restored in the round are left out of its time, and
as in `laps_env.sim.confidence`, behind the end of an output the draft is as sure as before. Only
verified tokens count as drafted in statistics (assumed). vLLM sizes k by confidences of the round
before and averages those of a request over rounds; here they are those of the round at hand.
"""

from __future__ import annotations

import re
from typing import Any

from laps_env.sim.confidence import CERTAIN
from laps_env.sim.costs import Work, work_ns
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH
from laps_env.sim.state import Episode
from laps_env.utils.jit import inlined, jit

#: Name of the rule, in place of a draft length; the tokens that each request drafts may follow:
#: ``topk:4``.
TOPK = "topk"

#: What stands in the kernel's constants for it.
BY_TOPK = -6

#: Tokens that each request drafts if the name does not say (vLLM's in its own measurements).
USUAL = 7

_FORM = re.compile(rf"{TOPK}(?::(?P<drafted>\d+))?", re.ASCII)


def topk_of(draft_length: object) -> int | None:
    """Tokens that each request drafts under ``topk``, 0..16; None for any other draft length."""
    found = _FORM.fullmatch(draft_length) if isinstance(draft_length, str) else None
    if found is None:
        return None
    drafted = USUAL if found["drafted"] is None else int(found["drafted"])
    return drafted if drafted <= MAX_DRAFT_LENGTH else None


@jit
def verify_surest(c: Any, server: Any, e: Episode, work: Work) -> int:
    """Choose what is verified of each request's draft (``slot.verifying``); tokens in all.

    The surest token goes next for as long as it raises the rate: behind it none does, as their
    chances fall and each takes the same time.

    Args:
        c: Constants of the server.
        server: Record of the server.
        e: Its arrays.
        work: Drafts and contexts of the round, with a verification of one token per request.
    """
    for k in range(server.picked):
        slot = e.slots[e.batch[k]]
        slot.verifying = 0
        slot.chance = 1.0
        look_ahead(e, slot)
    expected, verified = float(server.picked), 0
    best = expected / work_ns(c, work)
    while True:
        surest, chance = -1, 0.0
        for k in range(server.picked):
            slot = e.slots[e.batch[k]]
            if slot.verifying < slot.drafting and slot.chance > chance:
                surest, chance = e.batch[k], slot.chance
        expected += chance
        after = work.verify + verified + 1
        more = Work(after, 0, work.kv, work.steps, work.drafted, work.draft_kv, 0, 0, 0)
        rate = expected / work_ns(c, more)
        if surest < 0 or rate <= best:
            return verified
        best = rate
        verified += 1
        slot = e.slots[surest]
        slot.verifying += 1
        look_ahead(e, slot)


@inlined
def look_ahead(e: Episode, slot: Any) -> None:
    """Take the confidence of a request's next unverified token into its chance."""
    request = e.requests[slot.request]
    at = slot.position + slot.verifying
    if slot.verifying < slot.drafting and at < request.offset + request.output_tokens:
        slot.chance *= e.confidence[at] / CERTAIN
