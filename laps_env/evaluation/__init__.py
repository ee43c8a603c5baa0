"""Evaluation: policies x scenarios x loads on shared workloads, with intervals."""
