"""`render_mode="ansi"`: the request table as text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from laps_env.layout import (
    ACCEPTED,
    ARRIVAL_NUMBER,
    BACKLOG,
    CACHED,
    DRAFTED,
    FREE_CACHE_TOKENS,
    GENERATED_TOKENS,
    OCCUPIED,
    PICKED,
    PREDICTED_TOKENS,
    RAN,
    WAITING_S,
)


def render_table(
    queue: npt.NDArray[np.float32], server: npt.NDArray[np.float32], now_s: float, finished: int
) -> str:
    """An observation (``queue`` [N, F], ``server`` [G]): a line for it, a line per request."""
    rows = queue[queue[:, OCCUPIED] == 1]
    rows = rows[np.argsort(rows[:, ARRIVAL_NUMBER])]
    lines = [
        f"t = {now_s:.3f} s   finished {finished}   in slots {len(rows)}   "
        f"backlog {server[BACKLOG]:.0f}   free cache {server[FREE_CACHE_TOKENS]:.0f} tokens",
        "  request  waiting s  generated / predicted  acceptance  state",
    ]
    for row in rows:
        rate = f"{row[ACCEPTED] / row[DRAFTED]:.2f}" if row[DRAFTED] else "-"
        state = "picked" if row[PICKED] else "ran" if row[RAN] else "waiting"
        cache = "" if row[CACHED] else ", no cache"
        lines.append(
            f"  {row[ARRIVAL_NUMBER]:7.0f}  {row[WAITING_S]:9.3f}  {row[GENERATED_TOKENS]:9.0f} / "
            f"{row[PREDICTED_TOKENS]:<9.0f}  {rate:>10}  {state}{cache}"
        )
    return "\n".join(lines)
