"""What a scheduler inside another engine counts: for its log, and as Prometheus counters."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

#: Counters by name, each with its meaning.
COUNTERS = {
    "steps": "steps that were decided",
    "decision_seconds": "seconds spent on deciding and on the table",
    "held": "requests kept out of a step with their caches kept, summed over steps",
    "evicted": "requests that lost their caches",
    "failures": "steps served first come first served because the policy failed",
    "ignored_data": "requests whose predicted_tokens or category could not be used",
}

#: Seconds between two lines of the log, and between two updates of the Prometheus counters.
LOG_EVERY_S, EXPORT_EVERY_S = 10.0, 1.0


class Counters:
    """Counts of one scheduler, by the names of `COUNTERS`.

    Args:
        policy: Name of the policy, the label of the Prometheus counters ``laps_<name>_total``.
            They are seen in vLLM's ``/metrics`` where the environment sets
            ``PROMETHEUS_MULTIPROC_DIR``, because the engine is a process of its own.
        log: Function that is given a line for the log.
    """

    def __init__(self, policy: str, log: Callable[[str], None]) -> None:
        self.values: Counter[str] = Counter()
        self._policy, self._log = policy, log
        self._exported: Counter[str] = Counter()
        self._logged: Counter[str] = Counter()
        self._export_at = self._log_at = 0.0

    def add(self, name: str, value: float = 1) -> None:
        """Count."""
        self.values[name] += value  # type: ignore[assignment]

    def tell(self, now_s: float, *, idle: bool) -> None:
        """Export and log what is new, where it is time to; at once when the server goes idle."""
        if idle or now_s >= self._export_at:
            self._export_at = now_s + EXPORT_EVERY_S
            self._export()
        if now_s >= self._log_at:
            self._log_at = now_s + LOG_EVERY_S
            self._log(self._line())

    def _export(self) -> None:
        exported = _prometheus()
        for name, value in (self.values - self._exported).items():
            if name in exported:
                exported[name].labels(policy=self._policy).inc(value)
        self._exported = self.values.copy()

    def _line(self) -> str:
        new = self.values - self._logged
        self._logged = self.values.copy()
        steps = max(new["steps"], 1)
        return (
            f"{self._policy}: {new['steps']} steps, {new['decision_seconds'] / steps * 1e6:.0f} us "
            f"to decide one, {new['held'] / steps:.1f} held, {new['evicted']} evicted, "
            f"{new['failures']} failures"
        )


@cache
def _prometheus() -> dict[str, Any]:
    """The process's counters; none where nobody could read them."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return {}
    from prometheus_client import Counter as Exported

    return {
        name: Exported(f"laps_{name}", meaning, ["policy"]) for name, meaning in COUNTERS.items()
    }
