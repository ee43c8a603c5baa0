"""Requests before they run: arrivals, lengths, acceptance, predictions."""

from laps_env.workloads.workload import Workload

__all__ = ["Workload"]
