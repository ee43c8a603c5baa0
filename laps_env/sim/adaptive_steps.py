"""SGLang's adaptive speculation: a draft length by batch size and by what was lately accepted.

Source: SGLang 0.5.23, `adaptive_spec_params.py`, its default configuration. There are candidates
for batches near 1, 8, 32 and 64. For each the tokens accepted by a request of a round are averaged
over the rounds of such batches; now and then the next candidate is taken while the average is
within half a token of it, the one before where it is half a token below. After a stretch without
drafts the smallest draft is tried. It begins with 3 tokens, where that is no candidate with the
middle one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.utils.jit import inlined, jit

#: Name of the rule, in place of a draft length.
SGLANG = "sglang"

#: Batch sizes that have candidates of their own; the nearest counts, of two the smaller.
BATCHES = np.array([1, 8, 32, 64])
#: Draft lengths for each, ascending, -1 where there is none.
CANDIDATES = np.array([[1, 3, 5, 7], [0, 1, 3, -1], [0, 1, -1, -1], [0, -1, -1, -1]])
#: First of them by its place.
FIRST = np.array([1, 2, 1, 0])
#: What the average has to be lower by before a step down.
SLACK = np.array([0.25, 0.0, 0.0, 0.0])
#: Weight of the latest round in the average.
WEIGHT = 0.2
#: Rounds before the first change, and from one possible change to the next.
WARM_UP, INTERVAL = 10, 5

#: What is kept for each of `BATCHES`: place of the candidate in force, average, rounds.
PLACE, AVERAGE, ROUNDS = range(3)
KEPT = 3


@inlined
def start_adaptive(adaptive: npt.NDArray[np.float64]) -> None:
    """Begin an episode: ``adaptive`` [4, 3], or [0, 3] where the rule is not in force."""
    for k in range(adaptive.shape[0]):
        adaptive[k, PLACE] = FIRST[k]
        adaptive[k, AVERAGE] = CANDIDATES[k, FIRST[k]] - 1.0
        adaptive[k, ROUNDS] = 0.0


@inlined
def kind_of(batch: int) -> int:
    """Which of `BATCHES` is nearest."""
    nearest = 0
    for k in range(1, BATCHES.size):
        if abs(BATCHES[k] - batch) < abs(BATCHES[nearest] - batch):
            nearest = k
    return nearest


@jit
def sglang_draft_length(adaptive: npt.NDArray[np.float64], batch: int) -> Any:
    """Draft length of a round of so many requests."""
    kind = kind_of(batch)
    return CANDIDATES[kind, int(adaptive[kind, PLACE])]


@jit
def note_accepted(adaptive: npt.NDArray[np.float64], batch: int, accepted: int) -> None:
    """Take down a round that ended, ``accepted`` tokens in all, and choose anew where it is time.

    Args:
        adaptive: What is kept [4, 3] (changed).
        batch: Requests of the round.
        accepted: Draft tokens accepted, over all of them.
    """
    kind = kind_of(batch)
    kept = adaptive[kind]
    place = int(kept[PLACE])
    if CANDIDATES[kind, place] > 0:
        kept[AVERAGE] += WEIGHT * (accepted / batch - kept[AVERAGE])
    kept[ROUNDS] += 1
    beyond = int(kept[ROUNDS]) - WARM_UP
    if beyond > 0 and beyond % INTERVAL == 0:
        kept[PLACE] = chosen_place(kind, place, kept[AVERAGE])


@inlined
def chosen_place(kind: int, place: int, average: float) -> int:
    """Place of the candidate that the average asks for."""
    last = 0
    while last + 1 < CANDIDATES.shape[1] and CANDIDATES[kind, last + 1] >= 0:
        last += 1
    if CANDIDATES[kind, place] == 0:
        return min(place + 1, last)
    found = place
    # |0 - 0.5|: half an accepted token is few enough to draft none
    while found > 0 and average <= abs(CANDIDATES[kind, found - 1] - 0.5) - SLACK[kind]:
        found -= 1
    if found == place:
        while found < last and average > CANDIDATES[kind, found] - 0.5:
            found += 1
    return found
