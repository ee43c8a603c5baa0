"""Drafting until the draft itself is unsure: a threshold on its confidences.

A draft knows the probability that it gives each of its tokens. Drafting stops behind the step at
which the product of those since the round began, the chance that the draft sees for all of them,
falls below a threshold. The step that stops it has been paid for, and its token is verified.

Confidences are bytes, 255 times the probability. Behind the end of an output the draft would go on
as surely as before: the end is not known before it is verified.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from laps_env.sim.draft_length import MAX_DRAFT_LENGTH
from laps_env.utils.jit import jit

#: Name of the rule, in place of a draft length; a threshold and the most tokens of a draft may
#: follow: ``confidence:0.25`` or ``confidence:0.25:4``.
CONFIDENCE = "confidence"

#: What stands in the kernel's constants for it.
BY_CONFIDENCE = -4

#: A certain draft.
CERTAIN = 255

_FORM = re.compile(rf"{CONFIDENCE}(?::(?P<threshold>\d+(?:\.\d+)?)(?::(?P<most>\d+))?)?", re.ASCII)


class Confident(NamedTuple):
    """How far a draft goes by its confidences.

    Attributes:
        threshold: Product of confidences below which it stops, 0..1; the default is best for a head
            at an H100's costs (docs/physics.md).
        most: Most tokens of a draft, 0..16 (default: assumed).
    """

    threshold: float = 0.3
    most: int = 8

    def __str__(self) -> str:
        return f"{CONFIDENCE}:{self.threshold:g}:{self.most}"


def confident_of(draft_length: object) -> Confident | None:
    """What a draft length by confidences says; None for any other."""
    found = _FORM.fullmatch(draft_length) if isinstance(draft_length, str) else None
    if found is None:
        return None
    usual = Confident()
    rule = Confident(
        usual.threshold if found["threshold"] is None else float(found["threshold"]),
        usual.most if found["most"] is None else int(found["most"]),
    )
    return rule if rule.threshold <= 1 and rule.most <= MAX_DRAFT_LENGTH else None


@jit
def confident_length(
    confidence: npt.NDArray[np.uint8], position: Any, end: Any, longest: Any, threshold: float
) -> Any:
    """Tokens drafted from a position of an output that ends at ``end``, at most ``longest``."""
    product = 1.0
    for n in range(longest):
        if position + n < end:
            product *= confidence[position + n] / CERTAIN
        if product < threshold:
            return n + 1
    return longest
