"""Requests before they run: arrivals, lengths, acceptance, predictions."""

from laps_env.workloads.workload import Workload, replay_recorded

__all__ = ["Workload", "replay_recorded"]
