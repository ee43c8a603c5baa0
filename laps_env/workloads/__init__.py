"""Requests before they run: arrivals, lengths, acceptance, predictions."""

from laps_env.sim.workload import Workload
from laps_env.workloads.generator import replay_recorded

__all__ = ["Workload", "replay_recorded"]
