"""Recorded arrivals: when requests came, and how long they were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ArrivalTrace:
    """R requests in order of arrival.

    Attributes:
        arrival_ns: Arrival times [R] in nanoseconds, non-decreasing, from 0.
        prompt_tokens: Prompt lengths [R], >= 1.
        output_tokens: Output lengths [R], >= 1.
        source: Name of the file.
        form: Format that it was read as, in words.
    """

    arrival_ns: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    source: str
    form: str = ""
