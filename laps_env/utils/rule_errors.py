"""Exceptions out of compiled rules: caught, where numba would print them and go on.

Code that is called through a pointer cannot raise: numba hands what it raises to
`sys.unraisablehook` and returns zero. The hook here keeps the exception for the thread whose rule
it is, and sets a flag that the compiled loop looks at.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt


class RuleErrors:
    """What the rules of one thread raise while they run.

    Attributes:
        raised: Flag for compiled code, int8 [1].
        first: First exception, None so far.
    """

    def __init__(self, raised: npt.NDArray[np.int8]) -> None:
        raised[0] = 0
        self.raised = raised
        self.first: BaseException | None = None


_running = threading.local()
_otherwise: Callable[[Any], object] = sys.unraisablehook


@contextmanager
def caught(raised: npt.NDArray[np.int8]) -> Iterator[RuleErrors]:
    """Keep what this thread's rules raise meanwhile, and set ``raised``, int8 [1]."""
    _take_over()
    before = getattr(_running, "errors", None)
    _running.errors = errors = RuleErrors(raised)
    try:
        yield errors
    finally:
        _running.errors = before


def _take_over() -> None:
    global _otherwise
    if sys.unraisablehook is not _keep:
        _otherwise, sys.unraisablehook = sys.unraisablehook, _keep


def _keep(unraisable: Any) -> None:
    errors: RuleErrors | None = getattr(_running, "errors", None)
    if errors is None or not isinstance(unraisable.object, str):  # a destructor's, not a rule's
        _otherwise(unraisable)
        return
    errors.raised[0] = 1
    if errors.first is None:
        errors.first = unraisable.exc_value
