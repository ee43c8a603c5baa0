"""What is said of a rule that raises, or gives a number that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.sim.observation import ARRIVAL_NUMBER, QUEUE_COLUMNS


def failure(
    name: str,
    rule: Callable[..., Any],
    request: npt.NDArray[np.float32],
    raised: BaseException | None,
    sizes: Mapping[str, int],
    drafts: bool,
) -> ValueError:
    """Error with the rule, the place, the request and the cure; what the rule raised is its cause.

    Args:
        name: Name of the policy.
        rule: Python function of the rule.
        request: Columns of the request, float32 [F].
        raised: Exception of the rule, None where its priority is not finite.
        sizes: Sizes of the rule's other arrays by what they hold.
        drafts: Whether it also decides drafts.
    """
    code = rule.__code__
    where = f"{name} ({Path(code.co_filename).name}, line {code.co_firstlineno})"
    if raised is None:
        numbers = "priority, longest draft and threshold" if drafts else "priority"
        what = f"expected a finite {numbers}, got NaN or infinity: guard divisions and logarithms"
    elif isinstance(raised, IndexError):
        held = ", ".join(f"{count} {things}" for things, count in sizes.items())
        what = f"{raised}: it has {len(QUEUE_COLUMNS)} columns of a row, {held} (RuleSpec.cells)"
    else:
        what = f"it raised {type(raised).__name__}: {raised}"
    columns = ", ".join(
        f"{column.name} {value:g}" for column, value in zip(QUEUE_COLUMNS, request, strict=True)
    )
    error = ValueError(f"{where}: {what}; at request {request[ARRIVAL_NUMBER]:.0f} with {columns}")
    error.__cause__ = raised
    return error
