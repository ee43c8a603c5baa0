"""`render_mode="ansi"`: the request table as text."""

from __future__ import annotations

import numpy as np

from laps_env.envs.view import View
from laps_env.sim.observation import (
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


def render_table(view: View) -> str:
    """A line for the server, a line per request."""
    server, rows = view.server, view.queue[view.queue[:, OCCUPIED] == 1]
    rows = rows[np.argsort(rows[:, ARRIVAL_NUMBER])]
    lines = [
        f"t = {view.now_s:.3f} s   finished {view.finished}   in slots {len(rows)}   "
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
