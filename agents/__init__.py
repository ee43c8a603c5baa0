"""Learned schedulers live here; rules with fixed formulas are in `policies`."""
