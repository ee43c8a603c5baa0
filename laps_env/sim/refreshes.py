"""When predictions are refreshed: after every so many generated tokens of a request that goes on.

A refresh tells the total output length anew. A request of L tokens has (L - 1) // every of them,
none at its end, where nothing is left to predict; they lie one after the other, request by request.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def refresh_offset(output_tokens: Ints, every: int) -> Ints:
    """First refresh of each request among those of all, int64 [R + 1].

    Args:
        output_tokens: Output lengths, int64 [R], >= 1.
        every: Tokens between refreshes, 0 for none.
    """
    counts = (output_tokens - 1) // every if every else np.zeros_like(output_tokens)
    return np.concatenate([[0], np.cumsum(counts)])


def tokens_when_told(offset: Ints, every: int) -> Ints:
    """Tokens that a request has generated when each refresh is told, int64 [F].

    Args:
        offset: First refresh of each request (`refresh_offset`).
        every: Tokens between refreshes.
    """
    return (np.arange(offset[-1]) - np.repeat(offset[:-1], np.diff(offset)) + 1) * every
