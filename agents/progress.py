"""`EpisodeProgress`: what schedulers are judged by, in the table that stable-baselines3 prints."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

#: Metrics of a summary that are logged as ``episodes/NAME``.
LOGGED = ("mean_latency_s", "p99_latency_s", "invalid_share")


class EpisodeProgress(BaseCallback):
    """Logs means over the episodes that ended in a rollout, as ``episodes/mean_latency_s``, ...

    ``episodes/invalid_share`` is the share of actions that were masked: an agent that does not know
    the mask plays first come, first served wherever it errs.

    Attributes:
        latest: What was logged last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.latest: dict[str, float] = {}
        self._summaries: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        self._summaries += [info["summary"] for info in infos if "summary" in info]
        return True

    def _on_rollout_end(self) -> None:
        if self._summaries:
            means = {n: float(np.mean([s[n] for s in self._summaries])) for n in LOGGED}
            self.latest = {f"episodes/{name}": mean for name, mean in means.items()}
        for name, mean in self.latest.items():
            self.logger.record(name, mean)
        self._summaries.clear()
